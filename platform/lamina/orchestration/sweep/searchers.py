"""The searchers that a job may name: Ray Tune's, tried on the job's space before Ray starts."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from ray.tune.search import SEARCH_ALG_IMPORT, BasicVariantGenerator, ConcurrencyLimiter

from lamina.config import SweepPlan, SweepSettings
from lamina.config.reading import shown
from lamina.config.tune_classes import SEARCHERS
from lamina.orchestration.sweep.arguments import has, made_of, named, reason_of
from lamina.orchestration.sweep.search import param_space
from lamina.registry import InputError, unknown

_KEY = SEARCHERS.key
_AT_RANDOM = ("random", "variant_generator")
_PACKAGES = {
    "ax": ("ax", "ax-platform"),
    "bayesopt": ("bayes_opt", "bayesian-optimization==1.4.3"),
    "bohb": ("hpbandster", "hpbandster ConfigSpace"),
    "hebo": ("hebo", "HEBO"),
    "hyperopt": ("hyperopt", "hyperopt"),
    "nevergrad": ("nevergrad", "nevergrad"),
    "optuna": ("optuna", "optuna"),
    "zoopt": ("zoopt", "zoopt"),
}
"""By searcher, the module that it needs, and what pip installs for it."""
_SEEDS = ("seed", "random_state_seed", "random_state")
"""The names of the seed in searchers' arguments."""


def make_searcher(
    plan: SweepPlan, max_concurrent: int
) -> BasicVariantGenerator | ConcurrencyLimiter:
    """The searcher that a plan's job names, or one that draws at random; seeded either way, where
    it can be.

    Raises InputError for a name or an argument that is not there, a package that is missing, and a
    space that the searcher cannot search.
    """
    settings = plan.job.sweep or SweepSettings()
    _check_points(plan, (settings.searcher or {}).get("points_to_evaluate"))
    if not searches(settings):
        given: dict[str, Any] = {}
        if settings.searcher is not None:
            _, given = named(SEARCHERS, settings.searcher, SEARCH_ALG_IMPORT)
        given = {"random_state": plan.job.seed, **given, "max_concurrent": max_concurrent}
        drawn: BasicVariantGenerator = made_of(_KEY, _Drawn, given)
        return drawn
    # Optuna would say on stderr what the sweep says anyway.
    logging.getLogger("optuna").setLevel(logging.WARNING)
    return ConcurrencyLimiter(_made(plan, settings), max_concurrent=max_concurrent)


def check_searcher(plan: SweepPlan) -> None:
    """Raises InputError as `make_searcher` does, and where the searcher has nothing to say of the
    plan's space, or would search another one (a range that it takes for uniform, say)."""
    make_searcher(plan, 1)
    settings = plan.job.sweep or SweepSettings()
    if not searches(settings):
        return
    searcher = _made(plan, settings)
    assert settings.searcher is not None
    said: list[str] = []
    try:
        with _overhearing(said):
            space = param_space(plan, searching=True)
            searcher.set_search_properties(settings.metric, settings.mode, space)
            if not said:
                searcher.suggest("check")
    except Exception as error:
        said.append(reason_of(error))
    if said:
        choice = (
            f"; the {len(plan.points)} points of variants and grids are one more choice of names"
            if len(plan.points) > 1
            else ""
        )
        raise InputError(
            f"{_KEY}: {settings.searcher['name']!r} cannot search this space: {said[0]}{choice}"
        )


def searches(settings: SweepSettings) -> bool:
    """Whether a searcher chooses, instead of each point having its turn."""
    return settings.searcher is not None and settings.searcher["name"] not in _AT_RANDOM


class _Drawn(BasicVariantGenerator):
    """Is not finished before its trials are. Where no trial is to come, Ray Tune ends the actor of
    a trial that is paused, and starts a process for each that goes on."""

    def is_finished(self) -> bool:
        return super().is_finished() and not self._live_trials


def _made(plan: SweepPlan, settings: SweepSettings) -> Any:
    assert settings.searcher is not None
    name = settings.searcher["name"]
    if name in _PACKAGES:
        _check_package(name)
    if name == "bohb" and (settings.scheduler or {}).get("name") != "hb_bohb":
        raise InputError(
            f"{_KEY}.name: 'bohb' learns from the scheduler 'hb_bohb' (allowed: "
            "sweep.scheduler: {name: hb_bohb}, or another searcher)"
        )
    made, given = named(SEARCHERS, settings.searcher, SEARCH_ALG_IMPORT)
    for key in _SEEDS:
        if has(made, key):
            given.setdefault(key, plan.job.seed)
    if name == "ax":
        given["random_seed"] = plan.job.seed
    if name == "zoopt":
        given.setdefault("budget", settings.num_samples)
    if name == "nevergrad":
        given["optimizer"] = _nevergrad(given.get("optimizer", "NGOpt"))
        given.setdefault("optimizer_kwargs", {"budget": settings.num_samples})
    return made_of(_KEY, made, given)


def _check_points(plan: SweepPlan, points: Any) -> None:
    """Ray Tune's searchers pass over a key that nobody draws, and draw anew what is out of
    range."""
    for number, point in enumerate(points or ()):
        path = f"{_KEY}.points_to_evaluate.{number}"
        for key, value in point.items():
            if key not in plan.domains:
                raise unknown(f"{path}.{key}", key, plan.domains)
            if not plan.domains[key].gives(value):
                domain = plan.domains[key]
                raise InputError(
                    f"{path}.{key}: {shown(value)} is not allowed (allowed: what sweep.space "
                    f"draws, {domain.function} of {', '.join(map(shown, domain.args))})"
                )


def _nevergrad(name: Any) -> Any:
    """Nevergrad's optimiser of this name."""
    registry = import_module("nevergrad").optimizers.registry
    if name not in registry:
        near = get_close_matches(str(name), list(registry), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"{_KEY}.optimizer: {name!r} is unknown{hint} (allowed: one of Nevergrad's "
            f"{len(registry)})"
        )
    return registry[name]


def _check_package(name: str) -> None:
    module, package = _PACKAGES[name]
    try:
        import_module(module)
    except Exception as error:  # It is not there, or one that it needs is of another version.
        raise InputError(
            f"{_KEY}.name: {name!r} needs a package that cannot be imported (pip install "
            f"{package}): {reason_of(error)}"
        ) from error


@contextmanager
def _overhearing(said: list[str]) -> Iterator[None]:
    """Collects what Ray's searchers warn of: that a bound or a scale is dropped, say."""

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = reason_of(record.getMessage())
            if "ConcurrencyLimiter" not in text:  # There is one.
                said.append(text)

    logger, ear = logging.getLogger("ray.tune.search"), Ear(logging.WARNING)
    before, passes = logger.level, logger.propagate
    logger.addHandler(ear)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(ear)
        logger.setLevel(before)
        logger.propagate = passes
