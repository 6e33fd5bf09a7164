"""Pictures of what a sweep found: the accuracy matrix R of a trial, and the trials side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path
from statistics import median
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lamina.evaluation.measures import better_of, words_of
from lamina.tracking.matrix import Rows
from lamina.tracking.palette import BOUND, PALETTE

_INK, _FAINT, _EMPTY = "#222222", "#666666", "#e4e4e4"
_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)))
_DPI = 144


def draw_matrix(
    path: Path,
    *,
    tasks: Sequence[str],
    cells: Rows,
    part: str,
    name: str,
    measure: str = "accuracy",
) -> None:
    """A heat map of R as PNG at `path`; cells that are undefined or not reached yet are grey.

    Args:
        cells: R[t][i] for the tasks trained so far, or for all.
        part: "validation" or "test".
        name: Whose it is: the strategy or the trial.
        measure: What R is of.
    """
    size, words = len(tasks), words_of(measure)
    grid = np.full((size, size), nan)
    for t, row in enumerate(cells):
        grid[t, : len(row)] = [nan if value is None else value for value in row]

    side = 0.62 * max(size, 4) if size <= 10 else 0.5 * size
    figure = Figure(figsize=(side, side), dpi=_DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_facecolor(_EMPTY)
    top = 1.0 if better_of(measure) == "max" else _ceiling(grid[~np.isnan(grid)].tolist())
    image = axes.imshow(grid, cmap="viridis", vmin=0.0, vmax=top)
    for (t, i), value in np.ndenumerate(grid):
        if not isnan(value):
            ink = "white" if value < 0.6 * top else "black"
            said = f"{value:.2f}" if value < WIDEST else f"{value:.0e}"
            axes.text(i, t, said, ha="center", va="center", color=ink, fontsize=10)

    labels = [fill(task, 14, break_long_words=False) for task in tasks]
    axes.set_xticks(range(size), labels, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(size), labels)
    axes.set_xlabel(f"{words} on task")
    axes.set_ylabel("after training task")
    # White seams between the cells.
    axes.set_xticks(np.arange(size - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(size - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, cax=axes.inset_axes((1.0 + 0.2 / side, 0.0, 0.2 / side, 1.0)))
    bar.outline.set_visible(False)
    _title(axes, name, f"{part} {words}")
    figure.savefig(path, format="png", bbox_inches="tight", pad_inches=0.2)


@dataclass(frozen=True)
class Curve:
    """How a trial went on."""

    values: Sequence[float]
    """One after each task that it has learned."""
    num_tasks: int
    """How many steps it takes its own stream in: its tasks, or 1 where it learns all at once."""

    @property
    def is_stopped(self) -> bool:
        """Whether it has tasks left to learn."""
        return len(self.values) < self.num_tasks


WIDEST = 1e4
"""From here on a number has no room in a cell, but its size."""
RUNAWAY = 10.0
"""So many times the median of all values, a picture ends."""
LABELLED = 12
"""So many of the trials, the best, are named in the picture; the others are drawn in grey."""


def draw_curves(
    path: Path,
    *,
    tasks: Sequence[str],
    curves: Mapping[str, Curve],
    part: str,
    name: str,
    measure: str = "accuracy",
) -> None:
    """The average of the measure after each task as PNG at `path`: a line per trial, the best named
    first.

    A trial that learned everything as one task (a joint one) has no curve over tasks: it is a level
    across the picture without a colour of its own, a bound for the others.

    Args:
        curves: By the trial's name.
        part: "validation" or "test".
        name: Whose trials they are: the sweep.
        measure: What R is of.
    """
    better = better_of(measure)
    started = [(trial, curve) for trial, curve in curves.items() if curve.values]
    ranked = sorted(started, key=lambda item: item[1].values[-1], reverse=better == "max")
    named, others = ranked[:LABELLED], ranked[LABELLED:]
    # Labels stand one below the other.
    named.sort(key=lambda item: item[1].values[-1], reverse=True)
    figure = Figure(figsize=(8.0, 5.2), dpi=_DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    more = f"; the {len(others)} below the best {LABELLED} in grey" if others else ""
    _title(axes, name, f"{part} {words_of(measure)}, average over the tasks so far{more}")

    last = len(tasks) - 1
    for _, curve in others:
        steps, values = _line(curve, last)
        axes.plot(steps, values, color="#999999", linewidth=0.6, zorder=1)
    column = last + 0.12 * max(last, 1)
    values = [value for _, curve in started for value in curve.values]
    top = 1.0 if better == "max" else _ceiling(values)
    ends = [curve.values[-1] for _, curve in named]
    heights = _apart(ends, gap=0.052 * top, top=top)
    number = 0
    for (trial, curve), height in zip(named, heights, strict=True):
        steps, values = _line(curve, last)
        end, value = steps[-1], values[-1]
        if _is_bound(curve, last):
            colour = _FAINT
            axes.axhline(value, color=BOUND, linestyle="--", linewidth=1.2, zorder=1)
        else:
            colour = PALETTE[number % len(PALETTE)]
            dash = _DASHES[number // len(PALETTE) % len(_DASHES)]
            number += 1
            axes.plot(steps, values, color=colour, linestyle=dash, linewidth=2, zorder=3)
            axes.plot(end, value, color=colour, marker="o", markersize=5, zorder=4)
        axes.plot(
            [end, column],
            [min(value, top), height],
            color=colour,
            linewidth=0.7,
            alpha=0.6,
            zorder=2,
        )
        label = f" {value:.3f}  {trial}{_remark(curve, last)}"
        axes.text(column, height, label, color=colour, va="center", fontsize=10)

    axes.set_xlim(-0.15, column)
    axes.set_ylim(0.0, 1.02 * top)
    labels = [fill(task, 14, break_long_words=False) for task in tasks]
    axes.set_xticks(range(len(tasks)), labels, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_xlabel("after training task")
    if better == "max":
        axes.set_yticks(np.arange(0.0, 1.01, 0.2))
    axes.grid(axis="y", color="#e8e8e8")
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_bounds(-0.15, last)
    figure.savefig(path, format="png", bbox_inches="tight", pad_inches=0.2)


def _ceiling(values: Sequence[float]) -> float:
    """Up to where a picture shows values of which less is better: a trial that has come to grief
    leaves it, so that the others are told apart."""
    if not values:
        return 1.0
    return min(max(values), RUNAWAY * median(values))


def _is_bound(curve: Curve, last: int) -> bool:
    """Whether a trial learned as one task what others learn as several, up to task `last`."""
    return curve.num_tasks == 1 and last > 0


def _line(curve: Curve, last: int) -> tuple[list[int], list[float]]:
    """Where a curve runs: over its tasks, or across the picture if it is a bound."""
    if _is_bound(curve, last):
        return [0, last], [curve.values[-1]] * 2
    return list(range(len(curve.values))), list(curve.values)


def _remark(curve: Curve, last: int) -> str:
    """What a label says beside number and name."""
    if _is_bound(curve, last):
        return "  (all tasks at once)"
    return f"  (stopped after task {len(curve.values)})" if curve.is_stopped else ""


def _title(axes: Axes, name: str, what: str) -> None:
    axes.set_title(name, loc="left", pad=24, fontsize=13, fontweight="bold", color=_INK)
    axes.annotate(
        what,
        (0.0, 1.0),
        (0, 9),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=10,
        color=_FAINT,
    )


def _apart(heights: Sequence[float], gap: float, top: float) -> list[float]:
    """`heights`, which fall, moved as little as needed to be `gap` apart and below `top`.

    Neighbours that are too close become a block around their mean (isotonic regression by pooling
    adjacent violators, on what is left when each place's share of the gaps is taken off).
    """
    blocks: list[tuple[float, int]] = []
    for place, height in enumerate(heights):
        mean, size = height + place * gap, 1
        while blocks and blocks[-1][0] < mean:
            above, number = blocks.pop()
            mean, size = (above * number + mean * size) / (number + size), number + size
        blocks.append((mean, size))
    levels = [mean for mean, size in blocks for _ in range(size)]
    lowest = gap / 2 + (len(levels) - 1) * gap
    return [min(max(level, lowest), top) - place * gap for place, level in enumerate(levels)]
