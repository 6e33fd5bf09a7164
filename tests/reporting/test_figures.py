"""The pictures: that plotly takes them, and what they say."""

from dataclasses import replace

import plotly.graph_objects as go
import pytest

from finished_sweep import PREDICTIONS, TASKS
from lamina.reporting.figures.costs import SPENT, spent
from lamina.reporting.figures.curves import VISIBLE, curves
from lamina.reporting.figures.drifts import drifts
from lamina.reporting.figures.effects import effect, varied
from lamina.reporting.figures.matrices import confusion, matrix
from lamina.reporting.figures.pareto import COSTS, pareto
from lamina.reporting.figures.style import Styles
from lamina.reporting.predictions import read_class_report
from lamina.reporting.results import Board
from lamina.tracking.palette import BOUND


def with_settings(trial, number, **settings):
    """A trial of another id and other settings."""
    row = {**trial.row, "trial": str(number), "name": f"trial {number}", "settings": settings}
    return replace(trial, row=row)


def test_plotly_knows_every_word_of_every_figure(board, tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text(PREDICTIONS)
    drawn = [
        curves(board, "test"),
        matrix(board.trials[0], "validation"),
        confusion(read_class_report(path)),
        *(pareto(board, cost) for cost in COSTS),
        drifts(board),
        *(effect(board, key, "test") for key in varied(board)),
        *(spent(board, cost) for cost in SPENT),
    ]
    for figure in drawn:
        go.Figure(figure)


def test_a_curve_is_the_mean_over_seeds_and_its_band_the_interval(board):
    band, line, *_ = curves(board, "test")["data"]
    assert line["name"] == "er lora, lr 0.01"
    assert line["x"] == [0, 1, 2]
    assert line["y"] == pytest.approx([0.91, 0.86, 0.81])
    # Student's interval of three values 0.02 apart: 4.302653 * 0.02 / 3**.5.
    assert band["y"][:3] == pytest.approx([0.9597, 0.9097, 0.8597], abs=1e-4)
    assert band["y"][3:] == pytest.approx([0.7603, 0.8103, 0.8603], abs=1e-4)
    assert line["text"][-1] == "0.810 ± 0.020 after media"


def test_joint_training_is_a_level_across_all_tasks_without_a_colour_of_its_own(board):
    (level,) = (each for each in curves(board, "test")["data"] if "at once" in each.get("name", ""))
    assert level["x"] == [0, 2]
    assert level["y"] == pytest.approx([0.86, 0.86])
    assert level["line"]["color"] == BOUND
    assert level["mode"] == "lines"


def test_only_the_best_curves_are_drawn_at_first(board):
    best = board.trials[0]
    many = Board(
        "many", [with_settings(best, number, rate=number) for number in range(VISIBLE + 3)]
    )
    shown = [each["visible"] for each in curves(many, "test")["data"]]
    assert shown == [True] * VISIBLE + ["legendonly"] * 3


def test_a_matrix_has_a_row_for_each_task_and_nothing_where_r_is_undefined(board):
    (heat,) = matrix(board.trials[0], "test")["data"]
    assert heat["z"][0][1:] == [None, None]
    assert heat["texttemplate"] == "%{z:.3f}"
    assert (heat["zmin"], heat["zmax"]) == (0, 1)
    assert heat["y"] == heat["x"] == list(TASKS)
    again = replace(board.trials[0], tasks=("lights", "media", "lights"))
    assert matrix(again, "test")["data"][0]["x"] == ["lights", "media", "lights (2)"]


def test_the_front_is_what_no_other_trial_beats_on_the_validation_part(board):
    line, *points = pareto(board, "stored_parameters")["data"]
    chosen = list(zip(line["x"], line["y"], strict=True))
    everything = [
        (row["stored_parameters"], row["validation_average_accuracy"])
        for row in board.rows
        if row["status"] == "finished"
    ]
    assert chosen == sorted(chosen)
    for cost, accuracy in everything:
        beaten = any(
            c <= cost and a >= accuracy and (c, a) != (cost, accuracy) for c, a in everything
        )
        at = (cost, pytest.approx(accuracy, abs=1e-4))
        assert any(point == at for point in chosen) != beaten
    assert sum(len(each["x"]) for each in points) == len(everything)
    assert "forgetting" in points[0]["text"][0]


def test_a_cost_that_is_not_known_has_no_picture(board):
    unknown = [replace(trial, row={**trial.row, "memory_bytes": None}) for trial in board.trials]
    assert pareto(Board("none", unknown), "memory_bytes") is None


def test_settings_are_those_that_vary_within_a_strategy_the_seed_last(board):
    assert varied(board) == ["training.learning_rate", "seed"]
    figure = effect(board, "training.learning_rate", "test")
    lines = [each for each in figure["data"] if each["mode"] == "lines"]
    assert lines[0]["x"] == ["0.01", "0.1"]
    assert lines[0]["y"] == pytest.approx([0.81, 0.72])
    assert figure["layout"]["xaxis"]["categoryarray"] == ["0.01", "0.1"]


def test_many_numbers_of_a_setting_are_an_axis_and_names_stay_side_by_side(board):
    best = board.trials[0]
    drawn = Board("x", [with_settings(best, k, rate=10.0**-k, kind=f"k{k}") for k in range(12)])
    axis = effect(drawn, "rate", "test")["layout"]["xaxis"]
    assert axis["type"] == "log"
    assert effect(drawn, "kind", "test")["layout"]["xaxis"]["type"] == "category"
    mixed = Board("x", [with_settings(best, k, rate=k or None) for k in range(12)])
    assert effect(mixed, "rate", "test")["layout"]["xaxis"]["type"] == "category"


def test_times_are_laid_end_to_end(board):
    training, evaluation = spent(board, "time")["data"]
    assert training["y"][0] == "er lora, lr 0.01"
    assert (training["x"][0], evaluation["x"][0]) == (4.5, 1.5)


def test_a_seventh_strategy_has_another_mark():
    styles = Styles([{"strategy": f"s{number}"} for number in range(8)])
    looks = [(styles.colour(f"s{n}"), styles.mark(f"s{n}")) for n in range(8)]
    assert len(set(looks)) == 8
    assert styles.colour("s0") == styles.colour("s6")
    assert [styles.dash("s0", name) for name in "aba"] == ["solid", "dash", "solid"]
