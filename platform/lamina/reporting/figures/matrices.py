"""Matrices as heat maps: R of a trial, and which classes were taken for which."""

from collections import Counter
from collections.abc import Sequence

from lamina.evaluation.measures import better_of
from lamina.reporting.figures.style import Figure, Trace, rounded
from lamina.reporting.predictions import ClassReport
from lamina.reporting.results import TrialResult, words_of

_MOST_LABELLED = 15
"""Tasks or classes of a matrix whose cells still have room for a number."""


def matrix(trial: TrialResult, part: str) -> Figure:
    """R of a trial as a heat map: a row after each task, a column for each."""
    return _heat_map(
        trial.tasks,
        trial.matrices[part],
        across=f"{words_of(trial.row)} on task",
        down="after training task",
        top=1.0 if better_of(trial.row.get("measure", "accuracy")) == "max" else None,
    )


def confusion(report: ClassReport) -> Figure:
    """Which classes were taken for which: shares of each class's rows."""
    shares = report.confusion / report.rows[:, None].clamp(min=1)
    return _heat_map(report.classes, shares.tolist(), across="answered", down="class", decimals=2)


def _heat_map(
    names: Sequence[str],
    cells: Sequence[Sequence[float | None]],
    across: str,
    down: str,
    decimals: int = 3,
    top: float | None = 1.0,
) -> Figure:
    """Cells in 0..`top` (None: up to the largest), with the same names down and across; one that is
    None is empty."""
    categories = _distinct(names)
    heat: Trace = {
        "type": "heatmap",
        "z": [rounded(line, decimals) for line in cells],
        "x": categories,
        "y": categories,
        **({} if top is None else {"zmin": 0}),
        **({} if top is None else {"zmax": top}),
        "colorscale": "Viridis",
        "colorbar": {"thickness": 12, "outlinewidth": 0},
        "xgap": 1,
        "ygap": 1,
        "hoverongaps": False,
        "hovertemplate": f"%{{z:.{decimals}f}}<br>{down} %{{y}}<br>{across} %{{x}}<extra></extra>",
    }
    if len(names) <= _MOST_LABELLED:
        heat["texttemplate"] = f"%{{z:.{decimals}f}}"
    plain = {"type": "category", "showgrid": False, "zeroline": False}
    return {
        "data": [heat],
        "layout": {
            "xaxis": {**plain, "title": {"text": across}, "tickangle": -40},
            "yaxis": {**plain, "title": {"text": down}, "autorange": "reversed"},
            "height": 260 + 34 * min(len(names), 20),
        },
    }


def _distinct(names: Sequence[str]) -> list[str]:
    """`lights`, `doors`, `lights (2)`: a task that comes twice is two rows."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found
