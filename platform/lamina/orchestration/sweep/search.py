"""A plan as Ray Tune sees it: the space that it draws from, and the trial that each draw is."""

from collections.abc import Mapping
from typing import Any

from ray import tune

from lamina.config import Domain, SweepPlan
from lamina.config.plan import Trial
from lamina.orchestration.sweep.thin_trial import plain

POINT = "point"
"""The key in a Tune configuration that numbers a point of the plan; all others are dotted keys of
the job."""

_WHOLE = ("randint", "qrandint", "lograndint", "qlograndint")


def param_space(plan: SweepPlan, searching: bool) -> dict[str, Any]:
    """The space: which point of the plan, and what is drawn. A searcher chooses the point too,
    where there are several; otherwise each has its turn."""
    points = list(range(len(plan.points)))
    drawn = {key: as_tune(domain) for key, domain in plan.domains.items()}
    if not searching:
        return {POINT: tune.grid_search(points), **drawn}
    # A searcher that knows ranges only could not take a choice of one.
    return {POINT: tune.choice(points) if len(points) > 1 else 0, **drawn}


def trial_of(plan: SweepPlan, config: Mapping[str, Any]) -> Trial:
    """The trial that a Tune configuration stands for. Raises ConfigError where what was drawn does
    not go together."""
    values = plain(config)
    for key, domain in plan.domains.items():
        if domain.function in _WHOLE and isinstance(values.get(key), float):
            # Some searchers know no whole numbers.
            values[key] = round(values[key])
    return plan.trial(plan.points[int(values[POINT])], values)


def as_tune(domain: Domain) -> Any:
    """Ray Tune's object for a domain."""
    return getattr(tune, domain.function)(*domain.args)
