"""Saved views of MLflow's table of runs, so that nobody has to pick the columns that matter.

A saved view is a tag of the experiment with the state of MLflow's page in it, as its own "Save as
new view" writes it (seen in MLflow 3.17). An MLflow that does not know it ignores it.
"""

import json
from collections.abc import Mapping

LEADERBOARD = "lamina-leaderboard"
"""The `viewStateShareKey` of the view that ranks all trials of an experiment."""
SWEEPS = "lamina-sweeps"
"""That of the view that has the trials below their sweeps."""

# In the order of the table; without widths, MLflow shows the first 14 letters of each name.
_WIDTHS = {
    "params.`strategy.name`": 115,
    "params.`adapter.kind`": 105,
    "params.`training.learning_rate`": 155,
    "metrics.`validation/average_accuracy`": 195,
    "metrics.`validation/forgetting`": 150,
    "metrics.`test/average_accuracy`": 160,
    "metrics.`test/forgetting`": 120,
    "metrics.`cost/trainable_parameters`": 185,
}


def saved_views(now: int) -> dict[str, str]:
    """The tags of an experiment that has our views; `now` in milliseconds since 1970."""
    # MLflow nests runs only where the newest come first.
    newest = {"orderByKey": "attributes.start_time", "orderByAsc": False}
    best = {
        "orderByKey": "metrics.`validation/average_accuracy`",
        "orderByAsc": False,
        "searchFilter": "tags.`lamina.trial` != ''",
        "chartsSearchFilter": "average_accuracy|forgetting",
    }
    return {
        **_view(LEADERBOARD, "Leaderboard of trials", best, now),
        **_view(SWEEPS, "Sweeps with their trials", newest, now),
    }


def _view(key: str, name: str, page: Mapping[str, object], now: int) -> dict[str, str]:
    columns = list(_WIDTHS)
    state = {"selectedColumns": columns, "columnOrder": columns, "columnWidths": _WIDTHS, **page}
    view = {"name": name, "createdAt": now, "updatedAt": now, "state": json.dumps(state)}
    return {f"mlflow.sharedViewState.{key}": json.dumps(view)}
