"""The schedulers and searchers that a job may name: Ray Tune's, and Lamina's own.

Their names, arguments and types are read from the files of the packages: importing Ray takes
seconds, and a misspelt name is told at once.
"""

from collections.abc import Collection, Iterable, Mapping
from types import UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin

from lamina.config.fields import read_value, unknown_key
from lamina.config.outline import Outline, outline_of, source_of
from lamina.registry import unknown

_JOB_SAYS = ("time_attr", "metric", "mode", "space", "max_concurrent")
"""What the job says elsewhere, or what is always the same."""
_OBJECTS = (
    "analysis",
    "ax_client",
    "custom_explore_fn",
    "evaluated_rewards",
    "log_config",
    "outcome_constraints",
    "require_attrs",
    "sampler",
    "storage",
)
"""What is an object of Python, or would be written where nobody looks."""
_PLAIN = (int, float, bool, str, type(None))


class TuneFamily(NamedTuple):
    """Classes of which `sweep.scheduler` or `sweep.searcher` names one."""

    key: str
    module: str
    """Ray Tune's, with its table of names."""
    table: str
    own: Mapping[str, tuple[str, str]]
    """Names beside the table's: module and class."""
    refused: Mapping[str, str]
    """By name, why it cannot be used here."""

    def outlines(self) -> dict[str, Outline]:
        """By name, what each class declares."""
        found: dict[str, Outline] = source_of(self.module)[self.table]
        return {**found, **{name: outline_of(*where) for name, where in self.own.items()}}

    def read(self, settings: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
        """The arguments that a job gives the class that it names, each of its type. Adds a line to
        `problems` for each mistake.

        Ray's own `create_scheduler` drops arguments that it does not know, so that a misspelt one
        would change nothing.
        """
        known, name = self.outlines(), settings["name"]
        usable = sorted(each for each in known if each not in self.refused)
        if name in self.refused:
            why = f"{name!r} {self.refused[name]} (allowed: {', '.join(usable)})"
            problems.append(f"{self.key}.name: {why}")
            return {}
        if name not in known:
            problems.append(str(unknown(f"{self.key}.name", name, usable)))
            return {}
        hints = known[name].arguments()
        hints = {each: hints[each] for each in hints if each not in (*_JOB_SAYS, *_OBJECTS)}
        given = {}
        for each, value in settings.items():
            path = f"{self.key}.{each}"
            if each == "name":
                continue
            if each not in hints:
                problems.append(unknown_key(path, hints))
            elif _is_plain(hints[each]):
                given[each] = read_value(hints[each], value, path, problems)
            else:
                given[each] = value
        return given


SCHEDULERS = TuneFamily(
    key="sweep.scheduler",
    module="ray.tune.schedulers",
    table="SCHEDULER_IMPORT",
    own={
        "asha": ("ray.tune.schedulers.async_hyperband", "AsyncHyperBandScheduler"),
        "task_halving": ("lamina.orchestration.sweep.task_halving", "TaskHalving"),
    },
    refused={
        "resource_changing": (
            "changes what a trial takes of the cluster, and here hosts take it, not trials"
        ),
        "pbt_replay": (
            "replays a file that population based training leaves in Ray Tune's own storage, which "
            "a sweep does not keep"
        ),
    },
)
SEARCHERS = TuneFamily("sweep.searcher", "ray.tune.search", "SEARCH_ALG_IMPORT", {}, {})


def _is_plain(hint: Any) -> bool:
    """Whether a type is one of JSON's, or made of such. Other types are for the class to check."""
    origin = get_origin(hint)
    if origin in (Union, UnionType) or (
        isinstance(origin, type) and issubclass(origin, Collection) and not _maps(origin)
    ):
        return _all_plain(get_args(hint))
    return hint in _PLAIN


def _all_plain(hints: Iterable[Any]) -> bool:
    return all(hint is Ellipsis or _is_plain(hint) for hint in hints)


def _maps(origin: type) -> bool:
    return issubclass(origin, Mapping)
