"""What each setting did."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from lamina.evaluation.seeds import SEED
from lamina.reporting.figures.style import Figure, Styles, Trace, rounded
from lamina.reporting.formatting import setting
from lamina.reporting.results import Board

_MOST_VALUES = 8
"""Numbers of a setting that are still shown side by side; more are an axis."""
_WIDE = 20
"""From this ratio of the largest to the smallest value on, an axis is logarithmic."""


def varied(board: Board) -> list[str]:
    """The settings that vary among the trials of some strategy; the seed last."""
    values: dict[str, dict[str, set[str]]] = {}
    for row in board.rows:
        for key, value in row["settings"].items():
            values.setdefault(key, {}).setdefault(row["strategy"], set()).add(repr(value))
    keys = [key for key, by in values.items() if any(len(those) > 1 for those in by.values())]
    return sorted(keys, key=lambda key: key == SEED)


def effect(board: Board, key: str, part: str) -> Figure:
    """The measure against a setting: a point for each trial, a line through the means of each
    strategy, all other settings averaged over."""
    column = "average_accuracy" if part == "test" else "validation_average_accuracy"
    points = [
        Point(row["strategy"], row["name"], _comparable(row["settings"][key]), row[column])
        for row in board.rows
        if key in row["settings"] and row["status"] == "finished" and row[column] is not None
    ]
    values = _in_order({point.value for point in points})
    is_axis = len(values) > _MOST_VALUES and not any(isinstance(value, str) for value in values)
    styles = Styles(board.rows)
    data: list[Trace] = []
    for strategy in dict.fromkeys(point.strategy for point in points):
        own = [point for point in points if point.strategy == strategy]
        data.append(_marks(own, styles, is_axis))
        if not is_axis:
            data += _means(own, values, styles)
    return {
        "data": data,
        "layout": {
            "xaxis": {"title": {"text": key}, **_axis(values, is_axis)},
            "yaxis": {"title": {"text": f"average {board.words}, {part}"}, "rangemode": "tozero"},
            "hovermode": "closest",
        },
    }


class Point(NamedTuple):
    """A trial in the picture of a setting."""

    strategy: str
    name: str
    value: Any
    """Of the setting."""
    accuracy: float


def _marks(points: Sequence[Point], styles: Styles, is_axis: bool) -> Trace:
    strategy = points[0].strategy
    return {
        "type": "scatter",
        "mode": "markers",
        "name": strategy,
        "legendgroup": strategy,
        "x": [point.value if is_axis else setting(point.value) for point in points],
        "y": rounded([point.accuracy for point in points]),
        "marker": {
            "color": styles.colour(strategy),
            "symbol": styles.mark(strategy),
            "size": 8,
            "opacity": 0.8,
        },
        "text": [point.name for point in points],
        "hovertemplate": "%{text}<br>%{y:.3f}<extra></extra>",
    }


def _means(points: Sequence[Point], values: Sequence[Any], styles: Styles) -> list[Trace]:
    """A line, where a strategy has two values of the setting or more."""
    strategy = points[0].strategy
    by_value = {value: [p.accuracy for p in points if p.value == value] for value in values}
    means = {setting(value): fmean(those) for value, those in by_value.items() if those}
    if len(means) < 2:
        return []
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "legendgroup": strategy,
            "showlegend": False,
            "hoverinfo": "skip",
            "x": list(means),
            "y": rounded(list(means.values())),
            "line": {"color": styles.colour(strategy), "width": 2},
        }
    ]


def _axis(values: Sequence[Any], is_axis: bool) -> dict[str, Any]:
    """Values side by side, or numbers on an axis: logarithmic where they differ by magnitudes."""
    if not is_axis:
        order = [setting(value) for value in values]
        return {"type": "category", "categoryorder": "array", "categoryarray": order}
    is_wide = values[0] > 0 and values[-1] / values[0] >= _WIDE
    return {"type": "log" if is_wide else "linear"}


def _comparable(value: Any) -> Any:
    """A setting as something that has an order and an equal: a list is its text."""
    return value if isinstance(value, float | int | str) else str(value)


def _in_order(values: set[Any]) -> list[Any]:
    numbers = sorted(value for value in values if not isinstance(value, str))
    return [*numbers, *sorted(value for value in values if isinstance(value, str))]
