"""Pictures. What they say is looked at by people; here: that they are drawn, and not empty."""

import sys

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from lamina.tracking.palette import BOUND, PALETTE
from lamina.tracking.plots import Curve, _apart, draw_curves, draw_matrix

TASKS = ["lights and switches", "climate", "media playback"]
YELLOW, PURPLE, GREY = (0.99, 0.91, 0.14), (0.27, 0.0, 0.33), (0.894, 0.894, 0.894)
"""The ends of the colour scale, and what is undefined."""


def rgb(colour):
    """The parts of `#rrggbb` in 0..1."""
    return tuple(int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))


def share(path, colour) -> float:
    """How much of a picture has a colour, more or less."""
    pixels = imread(path)[..., :3]
    return float((np.abs(pixels - np.array(colour)).max(axis=-1) < 0.02).mean())


def test_a_heat_map_has_the_fixed_scale_and_grey_where_r_is_undefined(tmp_path):
    path = tmp_path / "matrix.png"
    accuracy = [[1.0, None, None], [0.0, 1.0, None]]
    draw_matrix(path, tasks=TASKS, cells=accuracy, part="validation", name="er")

    cell = share(path, PURPLE)
    assert cell > 0.02
    assert share(path, YELLOW) == pytest.approx(2 * cell, rel=0.2)
    assert share(path, GREY) == pytest.approx(6 * cell, rel=0.2)


def test_the_scale_does_not_follow_the_values(tmp_path):
    path = tmp_path / "matrix.png"
    draw_matrix(path, tasks=TASKS, cells=[[0.5, 0.5, 0.5]], part="test", name="er")

    teal = (0.13, 0.57, 0.55)
    assert share(path, teal) > 0.06
    assert share(path, PURPLE) < 0.01


def test_curves_of_many_trials_of_different_lengths_are_drawn(tmp_path):
    path = tmp_path / "curves.png"
    curves = {
        f"trial {number}": Curve([1.0, 0.9, number / 40][: 1 + number % 3], 3)
        for number in range(30)
    }
    curves["queued"] = Curve([], 3)
    draw_curves(path, tasks=TASKS, curves=curves, part="test", name="sweep")

    assert share(path, rgb(PALETTE[0])) > 0.0005
    assert imread(path).shape[1] > 1000


def texts_of(monkeypatch, path, curves):
    """What the labels of the curves say."""
    said = []
    monkeypatch.setattr(Axes, "text", lambda axes, x, y, text, **style: said.append(text))
    draw_curves(path, tasks=TASKS, curves=curves, part="test", name="sweep")
    return [text.split("  ", 1)[1] for text in said]


def test_only_a_trial_with_tasks_left_is_called_stopped(monkeypatch, tmp_path):
    curves = {
        "whole": Curve([0.9, 0.8, 0.7], 3),
        "stopped": Curve([0.9, 0.6], 3),
        "of two tasks": Curve([0.9, 0.5], 2),
        "joint": Curve([0.4], 1),
    }
    assert texts_of(monkeypatch, tmp_path / "curves.png", curves) == [
        "whole",
        "stopped  (stopped after task 2)",
        "of two tasks",
        "joint  (all tasks at once)",
    ]


def test_curves_of_less_that_is_better_have_a_scale_and_labels_of_their_own(monkeypatch, tmp_path):
    heights, ticks = {}, []
    text, save = Axes.text, Figure.savefig

    def note_text(axes, x, y, said, **style):
        heights[said.split()[1]] = y
        return text(axes, x, y, said, **style)

    def note_ticks(figure, *where, **how):
        ticks.extend(figure.axes[0].get_yticks())
        return save(figure, *where, **how)

    monkeypatch.setattr(Axes, "text", note_text)
    monkeypatch.setattr(Figure, "savefig", note_ticks)
    curves = {"low": Curve([9.0, 5.0], 2), "high": Curve([30.0, 40.0], 2)}
    draw_curves(
        tmp_path / "curves.png",
        tasks=TASKS[:2],
        curves=curves,
        part="test",
        name="sweep",
        measure="perplexity",
    )
    assert heights == {"low": pytest.approx(5.0), "high": pytest.approx(40.0)}
    assert max(ticks) >= 30


def test_a_trial_that_came_to_grief_leaves_the_picture_to_the_others(monkeypatch, tmp_path):
    tops = []
    save = Figure.savefig

    def note(figure, *where, **how):
        axes = figure.axes[0]
        tops.append((axes.images[0].get_clim() if axes.images else axes.get_ylim())[1])
        return save(figure, *where, **how)

    monkeypatch.setattr(Figure, "savefig", note)
    curves = {"low": Curve([9.0, 5.0], 2), "high": Curve([30.0, 40.0], 2), "lost": Curve([1e9], 2)}
    path, named = tmp_path / "curves.png", {"part": "test", "name": "s", "measure": "perplexity"}
    draw_curves(path, tasks=TASKS[:2], curves=curves, **named)
    draw_matrix(path, tasks=TASKS[:2], cells=[[5.0, 1e9], [6.0, 7.0]], **named)
    assert 40 < tops[0] < 400
    assert 7 < tops[1] < 100


def test_a_joint_trial_is_a_level_across_the_picture(tmp_path):
    path = tmp_path / "bound.png"
    curves = {"joint": Curve([0.95], 1), "whole": Curve([0.9, 0.8, 0.7], 3)}
    draw_curves(path, tasks=TASKS, curves=curves, part="test", name="sweep")
    pixels = np.abs(imread(path)[..., :3] - np.array(rgb(BOUND))).max(axis=-1) < 0.02
    assert int(pixels.sum(axis=1).max()) > 0.25 * imread(path).shape[1]


def test_a_joint_trial_takes_no_colour_from_the_curves(tmp_path):
    curve = Curve([0.9, 0.8, 0.7], 3)
    draw_curves(tmp_path / "a.png", tasks=TASKS, curves={"whole": curve}, part="test", name="s")
    both = {"joint": Curve([0.95], 1), "whole": curve}
    draw_curves(tmp_path / "b.png", tasks=TASKS, curves=both, part="test", name="s")
    for path in (tmp_path / "a.png", tmp_path / "b.png"):
        assert share(path, rgb(PALETTE[0])) > 0.0005
        assert share(path, rgb(PALETTE[1])) < 0.0001


def test_labels_that_are_too_close_are_spread_around_their_place():
    heights = [0.9, 0.52, 0.5, 0.48, 0.1]

    apart = _apart(heights, gap=0.05, top=1.0)

    assert np.diff(apart).max() <= -0.05 + 1e-9
    assert apart[0] == pytest.approx(0.9)
    assert apart[1:4] == pytest.approx([0.55, 0.5, 0.45])
    assert apart[4] == pytest.approx(0.1)


def test_labels_stay_inside_the_picture():
    apart = _apart([0.99] * 5 + [0.0] * 5, gap=0.05, top=1.0)

    assert max(apart) <= 1.0
    assert min(apart) >= 0.0
    assert np.diff(apart).max() <= -0.05 + 1e-9


def test_drawing_needs_no_global_state_of_pyplot(tmp_path):
    before = "matplotlib.pyplot" in sys.modules
    draw_matrix(tmp_path / "m.png", tasks=["a"], cells=[[0.5]], part="test", name="er")

    assert ("matplotlib.pyplot" in sys.modules) == before
