"""What a job says of searching, as Ray Tune's own objects: spaces, schedulers, searchers."""

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

from ray import tune
from ray.tune.schedulers import SCHEDULER_IMPORT, TrialScheduler
from ray.tune.search import SEARCH_ALG_IMPORT, BasicVariantGenerator, ConcurrencyLimiter

from lamina.config import Domain, SweepPlan, SweepSettings
from lamina.config.fields import unknown_key
from lamina.config.plan import Trial
from lamina.config.space import FUNCTIONS, read_domain
from lamina.orchestration.sweep.task_halving import TaskHalving
from lamina.registry import InputError, unknown

_SCHEDULERS: dict[str, Any] = {
    **SCHEDULER_IMPORT,
    "asha": tune.schedulers.ASHAScheduler,
    "task_halving": TaskHalving,
}
_NO_SCHEDULERS = ("resource_changing", "pbt_replay", "hb_bohb")
"""What changes a trial's resources (a thin one has none), replays a file, or needs a searcher that
is not there."""
_GIVEN = ("time_attr", "metric", "mode")
"""What the job says elsewhere, or what is always the same."""


POINT = "point"
"""The key in a Tune configuration that numbers a point of the plan; all others are dotted keys of
the job."""


def param_space(plan: SweepPlan, searching: bool) -> dict[str, Any]:
    """The space: which point of the plan, and what is drawn. A searcher chooses the point too;
    otherwise each has its turn."""
    points = list(range(len(plan.points)))
    point = tune.choice(points) if searching else tune.grid_search(points)
    return {POINT: point, **{key: as_tune(domain) for key, domain in plan.domains.items()}}


def trial_of(plan: SweepPlan, config: Mapping[str, Any]) -> Trial:
    """The trial that a Tune configuration stands for. Raises ConfigError where what was drawn does
    not go together."""
    return plan.trial(plan.points[config[POINT]], config)


def as_tune(domain: Domain) -> Any:
    """Ray Tune's object for a domain."""
    return getattr(tune, domain.function)(*domain.args)


def make_scheduler(sweep: SweepSettings) -> TrialScheduler | None:
    """The scheduler that a job names. Its unit of time is the task.

    Raises InputError for a name or an argument that Ray Tune does not know, or a value that it
    refuses.
    """
    if sweep.scheduler is None:
        return None
    allowed = {name: made for name, made in _SCHEDULERS.items() if name not in _NO_SCHEDULERS}
    made, given = _named("sweep.scheduler", sweep.scheduler, allowed)
    if "hyperparam_mutations" in given:
        given["hyperparam_mutations"] = _mutations(given["hyperparam_mutations"])
    if "time_attr" in inspect.signature(made).parameters:
        given["time_attr"] = "task"
    return _made("sweep.scheduler", made, given)


def make_searcher(
    sweep: SweepSettings, seed: int, max_concurrent: int
) -> BasicVariantGenerator | ConcurrencyLimiter:
    """The searcher that a job names, or one that draws at random; seeded either way.

    Raises InputError like `make_scheduler`, and where the searcher's own package is missing.
    """
    if sweep.searcher is None or sweep.searcher["name"] in ("random", "variant_generator"):
        return _Drawn(max_concurrent=max_concurrent, random_state=seed)
    made, given = _named("sweep.searcher", sweep.searcher, SEARCH_ALG_IMPORT)
    for key in ("seed", "random_seed", "random_state_seed"):
        if key in inspect.signature(made).parameters:
            given.setdefault(key, seed)
    searcher = _made("sweep.searcher", made, given)
    # Optuna would say on stderr what the sweep says anyway.
    logging.getLogger("optuna").setLevel(logging.WARNING)
    return ConcurrencyLimiter(searcher, max_concurrent=max_concurrent)


class _Drawn(BasicVariantGenerator):
    """Is not finished before its trials are. Where no trial is to come, Ray Tune ends the actor of
    a trial that is paused, and starts a process for each that goes on."""

    def is_finished(self) -> bool:
        return super().is_finished() and not self._live_trials


def _named(
    key: str, settings: Mapping[str, Any], known: Mapping[str, Callable[..., Any]]
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The class that settings name, imported, and the arguments that they give, checked against its
    signature.

    Ray's own `create_scheduler` drops arguments that it does not know, so that a misspelt one would
    change nothing.
    """
    name = settings["name"]
    if name not in known:
        raise unknown(f"{key}.name", name, known)
    made = known[name]
    if inspect.isfunction(made):
        made = made()
    given = {each: value for each, value in settings.items() if each != "name"}
    allowed = [each for each in inspect.signature(made).parameters if each not in _GIVEN]
    for each in given:
        if each not in allowed:
            raise InputError(unknown_key(f"{key}.{each}", allowed))
    return made, given


def _made(key: str, made: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    try:
        return made(**given)
    except (AssertionError, ImportError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or "an argument is not allowed"
        raise InputError(f"{key}: {reason}") from error


def _mutations(given: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Population based training's mutations, by dotted key: a list of values each, or a domain as
    in the space. (A job's reader has opened dotted keys.)"""
    mutations: dict[str, Any] = {}
    for key, value in given.items():
        path = f"{above}{key}"
        if not isinstance(value, Mapping):
            mutations[path] = value
        elif len(value) == 1 and set(value) <= set(FUNCTIONS):
            problems: list[str] = []
            domain = read_domain(f"sweep.scheduler.hyperparam_mutations.{path}", value, problems)
            if domain is None:
                raise InputError(problems[0])
            mutations[path] = as_tune(domain)
        else:
            mutations.update(_mutations(value, f"{path}."))
    return mutations
