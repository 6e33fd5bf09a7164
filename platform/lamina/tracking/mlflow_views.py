"""Saved views of MLflow's table of runs, so that nobody has to pick the columns that matter.

A saved view is a tag of the experiment with the state of MLflow's page in it, as its own "Save as
new view" writes it (seen in MLflow 3.17). An MLflow that does not know it ignores it.
"""

import json
from collections.abc import Mapping

from lamina.evaluation.measures import better_of

LEADERBOARD = "lamina-leaderboard"
"""The `viewStateShareKey` of the view that ranks all trials of an experiment."""
SWEEPS = "lamina-sweeps"
"""That of the view that has the trials below their sweeps."""

_STATUS = "runDateAndNestInfo"
"""MLflow's pinned column of when a run was made and how it ended."""


def _widths(measure: str) -> dict[str, int]:
    """The columns in the order of the table: at 1400 pixels, with MLflow's assistant open, three
    are seen. Without widths, MLflow shows the first 14 letters of each name."""
    longer = 7 * (len(measure) - len("accuracy"))
    found = {
        f"metrics.`validation/average_{measure}`": 203 + longer,
        f"metrics.`test/average_{measure}`": 166 + longer,
        "metrics.`test/forgetting`": 106,
        "params.`strategy.name`": 115,
        "params.`adapter.kind`": 105,
        "params.`training.learning_rate`": 155,
        "metrics.`test/macro_f1`": 115,
        "metrics.`validation/forgetting`": 150,
        "metrics.`cost/trainable_parameters`": 185,
    }
    if measure != "accuracy":
        del found["metrics.`test/macro_f1`"]
    return found


def saved_views(measure: str, now: int) -> dict[str, str]:
    """The tags of an experiment that has our views, with the columns of a measure; `now` in
    milliseconds since 1970."""
    widths = _widths(measure)
    # MLflow nests runs only where the newest come first.
    newest = {"orderByKey": "attributes.start_time", "orderByAsc": False}
    best = {
        "orderByKey": f"metrics.`validation/average_{measure}`",
        "orderByAsc": better_of(measure) == "min",
        "searchFilter": "tags.`lamina.trial` != ''",
        "chartsSearchFilter": f"average_{measure}|forgetting",
    }
    return {
        # Of trials that are ranked, how each ended is enough: a mark at the left.
        **_view(LEADERBOARD, "Leaderboard of trials", best, widths, {_STATUS: 48}, now),
        **_view(SWEEPS, "Sweeps with their trials", newest, widths, {}, now),
    }


def leaderboard_link(experiment_id: str) -> str:
    """The page of the view that ranks an experiment's trials, from the root of a server. MLflow
    opens pages as those of language model applications where the link does not say otherwise."""
    asked = f"workflowType=machine_learning&viewStateShareKey={LEADERBOARD}"
    return f"#/experiments/{experiment_id}/runs?{asked}"


def _view(
    key: str,
    name: str,
    page: Mapping[str, object],
    widths: Mapping[str, int],
    pinned: Mapping[str, int],
    now: int,
) -> dict[str, str]:
    state = {
        "selectedColumns": list(widths),
        "columnOrder": [*pinned, *widths],
        "columnWidths": {**pinned, **widths},
        **page,
    }
    view = {"name": name, "createdAt": now, "updatedAt": now, "state": json.dumps(state)}
    return {f"mlflow.sharedViewState.{key}": json.dumps(view)}
