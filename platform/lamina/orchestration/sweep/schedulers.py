"""The schedulers that a job may name: Lamina's own, and Ray Tune's."""

from collections.abc import Iterator, Mapping
from math import inf
from typing import Any

from ray.tune.schedulers import SCHEDULER_IMPORT, ASHAScheduler, TrialScheduler

from lamina.config import ConfigError, SweepPlan
from lamina.config.forking import meaningless
from lamina.config.reading import shown
from lamina.config.space import FUNCTIONS, read_domain
from lamina.config.tune_classes import SCHEDULERS
from lamina.evaluation import measures
from lamina.evaluation.accuracy_matrix import AccuracyMatrix
from lamina.orchestration.sweep.arguments import by_default, has, made_of, named
from lamina.orchestration.sweep.search import as_tune
from lamina.orchestration.sweep.task_halving import TaskHalving
from lamina.registry import InputError, unknown

_KEY = SCHEDULERS.key
_KNOWN: dict[str, Any] = {
    **SCHEDULER_IMPORT,
    "asha": ASHAScheduler,
    "task_halving": TaskHalving,
}
_EARLIEST = ("grace_period", "perturbation_interval", "burn_in_period")
"""Arguments that say after how many tasks a scheduler first does something."""
_LIMITS: dict[str, tuple[float, float]] = {
    "grace_period": (0, inf),
    "perturbation_interval": (1, inf),
    "burn_in_period": (0, inf),
    "min_time_slice": (0, inf),
    "resample_probability": (0, 1),
}
"""The least and the largest value of arguments that Ray Tune itself would take for anything."""
_VARIED = ("hyperparam_mutations", "hyperparam_bounds")
"""Arguments that say which keys a scheduler changes on the way."""
_COMPARES_FIRST_TASKS = ("hyperband", "hb_bohb")
"""Schedulers that end in an error where the metric is undefined."""


def make_scheduler(plan: SweepPlan, num_tasks: int) -> TrialScheduler | None:
    """The scheduler that a plan's job names; None lets every trial end by itself.

    Its unit of time is the task: what Ray Tune counts in seconds unless it is told otherwise is 1
    task, and what a trial can learn at most is `num_tasks`. Raises InputError for a name or an
    argument that is not there, a value that Ray Tune refuses, and what would change nothing.
    """
    settings = plan.job.sweep
    if settings is None or settings.scheduler is None:
        return None
    name = settings.scheduler["name"]
    made, given = named(SCHEDULERS, settings.scheduler, _KNOWN)
    if name == "fifo":
        return None
    if name == "hb_bohb" and (settings.searcher or {}).get("name") != "bohb":
        raise InputError(
            f"{_KEY}.name: 'hb_bohb' needs the searcher 'bohb' (allowed: "
            "sweep.searcher: {name: bohb}, or the scheduler 'hyperband')"
        )
    _check_metric(name, settings.metric)
    _check_time(name, given, num_tasks)
    most_others = max(plan.num_trials - 1, 1)
    defaults = _defaults(name, made, num_tasks, most_others)
    _check_limits(made, {**defaults, **given}, num_tasks, most_others)
    for key in _VARIED:
        if has(made, key):
            given[key] = _varied(plan, key, given.get(key))
    scheduler: TrialScheduler = made_of(_KEY, made, {**defaults, **given})
    return scheduler


def _defaults(name: str, made: Any, num_tasks: int, most_others: int) -> dict[str, Any]:
    """Default arguments of a scheduler, where the job gives none. A trial can be compared with at
    most so many others."""
    found = {
        "time_attr": "task",
        "max_t": num_tasks,
        "perturbation_interval": 1,
        "require_attrs": False,
        "log_config": False,
    }
    if name in ("median_stopping_rule", "medianstopping"):
        found |= {"grace_period": 1, "min_samples_required": min(3, most_others)}
    return {key: value for key, value in found.items() if has(made, key)}


def _check_metric(name: str, metric: str | None) -> None:
    if metric is None:
        return
    summaries = AccuracyMatrix([1], [[1.0]]).summaries(chance=0.5)
    first = {measures.named(s, m) for s in summaries for m in measures.measure_names()}
    first.add("macro_f1")
    if name in _COMPARES_FIRST_TASKS and metric.removeprefix("validation/") not in first:
        raise InputError(
            f"sweep.metric: {metric!r} is undefined after the first task, when {name!r} compares "
            "trials already (allowed: validation/average_accuracy, or another scheduler)"
        )


def _check_limits(made: Any, given: Mapping[str, Any], num_tasks: int, most_others: int) -> None:
    """Values that Ray Tune would take, and that mean nothing or change nothing here."""
    every = {**by_default(made), **given}
    limits = {**_LIMITS, "max_t": (1, num_tasks), "min_samples_required": (1, most_others)}
    for key, (least, largest) in limits.items():
        if given.get(key) is not None and not least <= given[key] <= largest:
            allowed = f"at least {least:g}" if largest == inf else f"{least:g} to {largest:g}"
            raise _not_allowed(key, given[key], allowed)
    if not 0 < every.get("quantile_fraction", 0.5) <= 0.5:
        raise _not_allowed("quantile_fraction", given["quantile_fraction"], "above 0, up to 0.5")
    if any(each <= 0 for each in given.get("perturbation_factors", ())):
        factors = given["perturbation_factors"]
        raise _not_allowed("perturbation_factors", factors, "two numbers above 0")
    factor = every.get("reduction_factor", 2)
    if factor <= 1:
        raise _not_allowed("reduction_factor", factor, "above 1")
    if "brackets" in every:
        # Bracket s first looks after grace_period * reduction_factor ** s tasks.
        most, first = 1, max(every["grace_period"], 1)
        while first * factor**most <= every["max_t"] - 1:
            most += 1
        if not 1 <= every["brackets"] <= most:
            why = f"1 to {most}; a later one never looks before the end of {num_tasks} tasks"
            raise _not_allowed("brackets", every["brackets"], why)
    elif "max_t" in every and factor > every["max_t"] ** 2:
        why = f"up to {every['max_t'] ** 2}, as nothing is halved in {every['max_t']} tasks above"
        raise _not_allowed("reduction_factor", factor, why)


def _not_allowed(key: str, value: Any, allowed: str) -> InputError:
    return InputError(f"{_KEY}.{key}: {shown(value)} is not allowed (allowed: {allowed})")


def _check_time(name: str, given: Mapping[str, Any], num_tasks: int) -> None:
    """Refuse a scheduler that first compares trials when all is learned: it changes nothing."""
    if num_tasks < 2:
        raise InputError(
            f"{_KEY}: {name!r} looks at trials between tasks, and the stream has one (allowed: "
            "null)"
        )
    for key in _EARLIEST:
        if given.get(key) is not None and given[key] >= num_tasks:
            raise InputError(
                f"{_KEY}.{key}: {given[key]:g} tasks are never over before the end of a stream of "
                f"{num_tasks} (allowed: below {num_tasks})"
            )


def _varied(plan: SweepPlan, key: str, given: Any) -> dict[str, Any]:
    """What a scheduler may change on the way, by dotted key: a list of values each, or a domain as
    in the space. Raises InputError."""
    path = f"{_KEY}.{key}"
    if not isinstance(given, Mapping) or not given:
        what = "missing" if given in (None, {}) else f"{shown(given)} is not allowed"
        raise InputError(
            f"{path}: {what} (allowed: a mapping of keys that sweep.space draws at random: "
            f"{_in_words(plan)})"
        )
    found: dict[str, Any] = {}
    for each, value in _opened(given):
        found[each], examples = _values(f"{path}.{each}", value, is_bounds="bounds" in key)
        _check_varied(plan, path, each, examples)
    return found


def _opened(given: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys with their values. (A job's reader has opened them.)"""
    for key, value in given.items():
        path = f"{above}{key}"
        if isinstance(value, Mapping) and not (len(value) == 1 and set(value) <= set(FUNCTIONS)):
            yield from _opened(value, f"{path}.")
        else:
            yield path, value


def _values(path: str, value: Any, is_bounds: bool) -> tuple[Any, list[Any]]:
    """The values for Ray Tune, and values that a key must be able to take."""
    if not isinstance(value, Mapping):
        is_list = isinstance(value, list) and len(value) > 0
        if not is_list or (is_bounds and not _are_bounds(value)):
            allowed = "two numbers, [low, high]" if is_bounds else "a list of values, or a domain"
            raise InputError(f"{path}: {value!r} is not allowed (allowed: {allowed})")
        return value, value
    problems: list[str] = []
    domain = read_domain(path, value, problems)
    if domain is None:
        raise InputError(problems[0])
    if is_bounds:
        if domain.function not in ("uniform", "loguniform", "randint", "lograndint"):
            raise InputError(f"{path}: {domain.function!r} has no bounds (allowed: [low, high])")
        return list(domain.args[:2]), domain.examples()
    # Ray would take the numbers of a choice for a range.
    listed = domain.is_grid or domain.function == "choice"
    return domain.args[0] if listed else as_tune(domain), domain.examples()


def _are_bounds(values: list[Any]) -> bool:
    """Whether these are two numbers with a range between them."""
    if not all(isinstance(each, int | float) and not isinstance(each, bool) for each in values):
        return False
    return len(values) == 2 and values[0] < values[1]


def _check_varied(plan: SweepPlan, path: str, key: str, examples: list[Any]) -> None:
    """Whether a key is drawn at random, may change at a task boundary, and takes the values."""
    if key not in plan.domains:
        if not plan.domains:
            raise InputError(f"{path}.{key}: does not vary, as {_in_words(plan)}")
        raise unknown(f"{path}.{key}", key, plan.domains)
    for point in plan.points:
        if key not in point.domains:
            continue
        for line in meaningless(point.trial.job, {key: examples[0]}):
            raise InputError(f"{path}.{line}")
        drawn = {each: plan.domains[each].examples()[0] for each in point.domains}
        for value in examples:
            try:
                plan.trial(point, {**drawn, key: value})
            except ConfigError as error:
                raise InputError(f"{path}.{error.problems[0]}") from error


def _in_words(plan: SweepPlan) -> str:
    return ", ".join(plan.domains) or "sweep.space draws nothing"
