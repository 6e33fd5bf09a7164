"""Matrices as heat maps: R of a trial, and which classes were taken for which."""

from collections.abc import Callable, Sequence

from lamina.reporting import formatting
from lamina.reporting.figures.style import Figure, Trace, rounded
from lamina.reporting.predictions import Answers
from lamina.reporting.results import TrialResult

_MOST_LABELLED_CELLS = 15
"""Tasks or classes of a matrix whose cells still have room for a number."""


def matrix(trial: TrialResult, part: str) -> Figure:
    """R of a trial as a heat map: a row after each task, a column for each."""
    rows = trial.matrices[part]
    names = list(trial.tasks)
    return _heat_map(
        names, names, rows, x="accuracy on task", y="after training task", text=formatting.number
    )


def confusion(answers: Answers) -> Figure:
    """Which classes were taken for which: shares of each class's rows."""
    names = list(answers.classes)
    total = answers.rows[:, None].clamp(min=1)
    shares = (answers.confusion / total).tolist()
    return _heat_map(names, names, shares, x="answered", y="class", text=lambda v: f"{v:.2f}")


def _heat_map(
    columns: Sequence[str],
    lines: Sequence[str],
    cells: Sequence[Sequence[float | None]],
    x: str,
    y: str,
    text: Callable[[float], str],
) -> Figure:
    heat: Trace = {
        "type": "heatmap",
        "z": [rounded(line) for line in cells],
        # Numbers are places, so that equal names stay apart.
        "x": list(range(len(columns))),
        "y": list(range(len(lines))),
        "zmin": 0,
        "zmax": 1,
        "colorscale": "Viridis",
        "colorbar": {"thickness": 12, "outlinewidth": 0},
        "xgap": 1,
        "ygap": 1,
        "hoverongaps": False,
        "customdata": [[[line, column] for column in columns] for line in lines],
        "hovertemplate": f"%{{z:.3f}}<br>{y} %{{customdata[0]}}<br>{x} %{{customdata[1]}}"
        "<extra></extra>",
    }
    if len(columns) <= _MOST_LABELLED_CELLS:
        heat["text"] = [["" if v is None else text(v) for v in line] for line in cells]
        heat["texttemplate"] = "%{text}"
    ticks = {"tickmode": "array", "showgrid": False, "zeroline": False}
    return {
        "data": [heat],
        "layout": {
            "xaxis": {
                **ticks,
                "title": {"text": x},
                "tickvals": heat["x"],
                "ticktext": list(columns),
                "tickangle": -40,
            },
            "yaxis": {
                **ticks,
                "title": {"text": y},
                "tickvals": heat["y"],
                "ticktext": list(lines),
                "autorange": "reversed",
            },
            "height": 260 + 34 * min(len(lines), 20),
        },
    }
