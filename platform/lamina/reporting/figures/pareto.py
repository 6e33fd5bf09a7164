"""Accuracy against what it costs."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lamina.evaluation.halving import Standing, pareto_ranks
from lamina.evaluation.measures import better_of
from lamina.reporting import formatting
from lamina.reporting.figures.style import Figure, Styles, Trace, rounded
from lamina.reporting.results import Board, TrialResult
from lamina.tracking.palette import BOUND

COSTS: Mapping[str, tuple[str, str]] = {
    "forgetting": ("Forgetting", "forgetting on the validation part"),
    "stored_parameters": ("Stored parameters", "parameters that are stored"),
    "memory_bytes": ("Memory", "bytes of exemplars"),
    "seconds": ("Time", "seconds of training and evaluation"),
}
"""What accuracy is paid with: a heading, and a label for an axis."""


class Point(NamedTuple):
    """A trial in the picture."""

    trial: TrialResult
    cost: float
    accuracy: float

    @property
    def strategy(self) -> str:
        """What its colour says."""
        return str(self.trial.row["strategy"])


def pareto(board: Board, cost: str) -> Figure | None:
    """The measure against a cost, of the trials that learned every task; those that no other beats
    in both are joined. None where the cost is not known of two trials.

    All of the validation part, because here one chooses; the test part's accuracy is in the hover
    text.
    """
    points = [
        Point(trial, float(paid), float(accuracy))
        for trial in board.trials
        if trial.row["status"] == "finished"
        and (paid := _cost(trial, cost)) is not None
        and (accuracy := trial.row["validation_average_accuracy"]) is not None
    ]
    if len(points) < 2:
        return None
    sign = 1 if better_of(board.measure) == "max" else -1
    ranks = pareto_ranks(
        [
            Standing(point.trial.row["trial"], point.strategy, sign * point.accuracy, (point.cost,))
            for point in points
        ]
    )
    front = [point for point, rank in zip(points, ranks, strict=True) if rank == 0]
    beaten = [point for point, rank in zip(points, ranks, strict=True) if rank > 0]
    front.sort(key=lambda point: (point.cost, point.accuracy))
    styles = Styles(board.rows)
    data: list[Trace] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "Pareto front",
            "x": rounded([point.cost for point in front]),
            "y": rounded([point.accuracy for point in front]),
            "line": {"color": BOUND, "width": 1.5, "dash": "dash"},
            "hoverinfo": "skip",
        }
    ]
    for strategy in dict.fromkeys(point.strategy for point in points):
        for those in (front, beaten):
            own = [point for point in those if point.strategy == strategy]
            is_first = all(trace["name"] != strategy for trace in data)
            if own:
                data.append(_points(strategy, own, styles, those is front, is_first))
    return {
        "data": data,
        "layout": {
            "xaxis": {"title": {"text": COSTS[cost][1]}},
            "yaxis": {"title": {"text": f"average {board.words}, validation"}},
            "hovermode": "closest",
        },
    }


def _cost(trial: TrialResult, cost: str) -> float | None:
    if cost != "forgetting":
        value: float | None = trial.row[cost]
        return value
    return trial.metrics[-1].get("validation/forgetting") if trial.metrics else None


def _points(
    strategy: str,
    points: Sequence[Point],
    styles: Styles,
    is_front: bool,
    is_first: bool,
) -> Trace:
    symbol = styles.mark(strategy)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": strategy,
        "legendgroup": strategy,
        "showlegend": is_first,
        "x": rounded([point.cost for point in points]),
        "y": rounded([point.accuracy for point in points]),
        "marker": {
            "color": styles.colour(strategy),
            "symbol": symbol if is_front else f"{symbol}-open",
            "size": 13 if is_front else 9,
            "line": {"width": 1.5, "color": styles.colour(strategy)},
        },
        "text": [
            f"{point.trial.name}<br>test {formatting.number(point.trial.row['average_accuracy'])}, "
            f"forgetting {formatting.number(point.trial.row['forgetting'])}"
            for point in points
        ],
        "hovertemplate": "%{text}<br>validation %{y:.3f}<extra></extra>",
    }
