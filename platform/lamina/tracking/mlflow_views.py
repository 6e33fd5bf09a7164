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

# In the order of the table: at 1400 pixels, with MLflow's assistant open, three columns are seen.
# Without widths, MLflow shows the first 14 letters of each name.
_WIDTHS = {
    "metrics.`validation/average_accuracy`": 203,
    "metrics.`test/average_accuracy`": 166,
    "metrics.`test/forgetting`": 106,
    "params.`strategy.name`": 115,
    "params.`adapter.kind`": 105,
    "params.`training.learning_rate`": 155,
    "metrics.`test/macro_f1`": 115,
    "metrics.`validation/forgetting`": 150,
    "metrics.`cost/trainable_parameters`": 185,
}
_STATUS = "runDateAndNestInfo"
"""MLflow's pinned column of when a run was made and how it ended."""


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
        # Of trials that are ranked, how each ended is enough: a mark at the left.
        **_view(LEADERBOARD, "Leaderboard of trials", best, {_STATUS: 48, **_WIDTHS}, now),
        **_view(SWEEPS, "Sweeps with their trials", newest, _WIDTHS, now),
    }


def leaderboard_link(experiment_id: str) -> str:
    """The page of the view that ranks an experiment's trials, from the root of a server. MLflow
    opens pages as those of language model applications where the link does not say otherwise."""
    asked = f"workflowType=machine_learning&viewStateShareKey={LEADERBOARD}"
    return f"#/experiments/{experiment_id}/runs?{asked}"


def _view(
    key: str, name: str, page: Mapping[str, object], widths: Mapping[str, int], now: int
) -> dict[str, str]:
    state = {
        "selectedColumns": list(_WIDTHS),
        "columnOrder": list(widths),
        "columnWidths": dict(widths),
        **page,
    }
    view = {"name": name, "createdAt": now, "updatedAt": now, "state": json.dumps(state)}
    return {f"mlflow.sharedViewState.{key}": json.dumps(view)}
