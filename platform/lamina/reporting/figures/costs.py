"""What trials cost, side by side."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from lamina.reporting.figures.style import Figure, rounded
from lamina.reporting.results import Board, TrialResult
from lamina.tracking.palette import PALETTE

_MOST_BARS = 40
SPENT: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "time": (
        "seconds of one device",
        {"training": "cost/train_seconds", "evaluation": "cost/evaluation_seconds"},
    ),
    "training FLOPs": ("FLOPs of training", {"training": "cost/train_flops"}),
    "FLOPs of a prediction": ("FLOPs of one prediction", {"prediction": "cost/inference_flops"}),
    "stored parameters": ("parameters that are stored", {"stored": "cost/stored_parameters"}),
    "memory": ("bytes of exemplars", {"exemplars": "cost/memory_bytes"}),
    "peak memory": ("bytes, the most that the process held", {"peak": "cost/peak_memory_bytes"}),
}
"""What a trial costs: by name, a label for an axis and the metrics that are laid end to end."""


def spent(board: Board, cost: str) -> Figure:
    """What a trial costs: the mean of each setting over its seeds, or each trial, at most the best
    forty."""
    entries = board.entries[:_MOST_BARS]
    label, keys = SPENT[cost]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": [entry.name for entry in entries],
            "x": rounded([_mean_of_last(entry.trials, key) for entry in entries]),
            "marker": {"color": PALETTE[place], "pattern": {"shape": "/" if place else ""}},
            "hovertemplate": f"{name} %{{x:.4s}}<extra>%{{y}}</extra>",
        }
        for place, (name, key) in enumerate(keys.items())
    ]
    return {
        "data": data,
        "layout": {
            "barmode": "stack",
            "showlegend": len(keys) > 1,
            "legend": {"traceorder": "normal"},
            "xaxis": {"title": {"text": label}, "rangemode": "tozero"},
            "yaxis": {"autorange": "reversed"},
            "height": 120 + 26 * len(entries),
        },
    }


def _mean_of_last(trials: Sequence[TrialResult], key: str) -> float | None:
    values = [trial.metrics[-1].get(key) for trial in trials if trial.metrics]
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
