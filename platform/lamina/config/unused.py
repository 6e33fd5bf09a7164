"""Keys of a job that change nothing in it, and why.

Each is said in a line, does not vary in a sweep, and is left out of what tells one trial from
another. A key of a section that is of no use stands for all keys below: `memory` for `memory.size`.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lamina.config.fields import settings_of
from lamina.config.overrides import SECTIONS, dotted
from lamina.config.reading import shown
from lamina.config.unused_in_federation import unused_in_federation
from lamina.memory.base import Policy
from lamina.registry import Where
from lamina.strategies.base import NO_ADAPTER, Strategy
from lamina.streams import ScenarioSettings
from lamina.streams.rows import GROUP
from lamina.training.settings import DRIFTS, TrainingSettings

if TYPE_CHECKING:
    from lamina.config.job import Job

Reasons = dict[str, str]
"""By dotted key, why it changes nothing."""

_WITH_STEPS_ALONE = settings_of(TrainingSettings).keys() - {
    "drift",
    "evaluation_batch_size",
    "general",
    "max_new_tokens",
    "measure",
}
_OF_ANY_BATCH = {"batch_size", "anytime_every", "learning_curve_batches"}
"""Keys of training that matter wherever rows come in batches, with a gradient step or without."""

_ALONE = "`lamina run` trains one trial in this process"
_IN_PROCESS = "`--in-process` trains all clients in this process, on the CPU"
_FEDERATE = {
    "sweep": "`lamina federate` runs the job's own federation",
    "hosts.cohort": "it counts trials of a sweep",
}
_BY_COMMAND: dict[str, Reasons] = {
    "run": {
        "sweep": f"{_ALONE}; of it only checkpoint_steps matters",
        "hosts.count": _ALONE,
        "hosts.cohort": _ALONE,
        "hosts.workers_per_trial": _ALONE,
    },
    "federate": _FEDERATE,
    "federate --in-process": {
        **_FEDERATE,
        "hosts.count": _IN_PROCESS,
        "hosts.device": _IN_PROCESS,
    },
}
COSTS_ALONE = {
    "training.evaluation_batch_size": "it changes no result, only time and memory",
    "backbone.max_memory_gb": "it changes no result, only where the weights are",
}
"""Keys that a job may well set and that no trial differs in."""


def unused_keys(job: "Job") -> Reasons:
    """All of them, given or not."""
    found = {**dict(_by_strategy(job)), **dict(_by_stream(job))}
    for section in SECTIONS:
        found |= by_other_settings(section, getattr(job, section))
    found |= unused_in_federation(job)
    return {key: why for key, why in found.items() if found.keys().isdisjoint(_above(key))}


def unused_by(job: "Job", command: str) -> Reasons:
    """Those of them that a job gives, by a command of the command line."""
    return given(job.mapping, {**job.idle, **_BY_COMMAND[command]})


def without(mapping: Mapping[str, Any], unused: Reasons) -> dict[str, Any]:
    """A complete mapping without these keys; a section among them is null."""
    result = dict(mapping)
    for key in unused:
        section, _, rest = key.partition(".")
        if not rest:
            result[section] = None
        elif isinstance(result.get(section), Mapping):
            result[section] = _dropped(result[section], rest)
    return result


def covering(key: str, unused: Reasons) -> str | None:
    """The one among the unused keys that stands for `key`, itself or a section that it is in."""
    return next((each for each in [*_above(key), key] if each in unused), None)


def given(mapping: Mapping[str, Any], unused: Reasons) -> Reasons:
    """Those that a mapping gives, other than as null."""
    found = {}
    for key, value in dotted(mapping).items():
        above = covering(key, unused)
        if above is not None and value is not None:
            found[above] = unused[above]
    return found


def by_other_settings(section: str, settings: Any) -> Reasons:
    """What the section's class declares in `matters_when`."""
    rules: Mapping[str, Where] = getattr(settings, "matters_when", {})

    def why(name: str) -> str | None:
        if name not in rules:
            return None
        rule = rules[name]
        value = getattr(settings, rule.setting)
        if not rule.holds(value):
            return f"{section}.{rule.setting} is {shown(value)}"
        return why(rule.setting)

    reasons = {f"{section}.{name}": why(name) for name in rules}
    return {key: reason for key, reason in reasons.items() if reason is not None}


def takes_adapter(strategy: type[Strategy]) -> bool:
    """Whether a job's adapter is of use to it."""
    return strategy.trained_tasks != "none" and strategy.adapters != (NO_ADAPTER,)


def draws_from_memory(
    strategy: Strategy, scenario: ScenarioSettings | None, memory: Policy | None
) -> bool:
    """Whether a job's memory is of use to it; None for what is not known."""
    if not strategy.needs_memory or getattr(strategy, "replay_size", None) == 0:
        return False
    return scenario is None or not _ends_with_its_task(strategy, scenario, memory)


def enter_as_they_pass(
    strategy: Strategy, scenario: ScenarioSettings, memory: Policy | None
) -> bool:
    """Whether rows enter the memory while their task is learned."""
    entry = (None if memory is None else memory.entry) or strategy.entry
    return scenario.one_pass or entry == "as_they_pass"


def _ends_with_its_task(
    strategy: Strategy, scenario: ScenarioSettings, memory: Policy | None
) -> bool:
    """Whether nothing comes after the first rows that enter the memory."""
    return scenario.kind == "joint" and not enter_as_they_pass(strategy, scenario, memory)


def _by_strategy(job: "Job") -> Iterator[tuple[str, str]]:
    cls, name = type(job.strategy), job.strategy_name
    if not takes_adapter(cls):
        yield "adapter", f"strategy {name!r} takes none"
    if not draws_from_memory(job.strategy, job.scenario, job.memory):
        yield "memory", _why_no_memory(job)
    if cls.data == "all" and job.stream.answers == "classes":
        yield "training.drift", f"strategy {name!r} learns all tasks at once"
    if not cls.takes_gradient_steps(job.adapter is not None and takes_adapter(cls)):
        in_batches = _OF_ANY_BATCH if job.scenario.kind == "task_free" else set()
        for key in sorted(_WITH_STEPS_ALONE - in_batches):
            yield f"training.{key}", f"strategy {name!r} takes no gradient step"


def _why_no_memory(job: "Job") -> str:
    if not job.strategy.needs_memory:
        return f"strategy {job.strategy_name!r} replays nothing"
    if getattr(job.strategy, "replay_size", None) == 0:
        return "strategy.replay_size is 0"
    return "rows enter it when their task ends, and the stream has one"


def _by_stream(job: "Job") -> Iterator[tuple[str, str]]:
    if job.stream.modality == "image":
        yield "backbone.max_length", "images have no tokens to cut"
    yield from _columns(job)
    for part, split in job.stream.own_parts.items():
        yield f"scenario.{part}", f"the rows of {part} are those of split {split!r}"
    has_tokens = job.stream.answers == "tokens"
    if (kind := job.scenario.kind) not in DRIFTS and not has_tokens:
        yield "training.drift", f"scenario.kind is {kind!r}: no task is asked before it"
    if not has_tokens:
        yield "training.general", "answers are classes"
    elif kind == "task_incremental":
        yield "training.general", "such prompts are of no task, and scenario.kind tells each"
    if not has_tokens:
        yield "training.max_new_tokens", "answers are classes"
    if has_tokens:
        for key in type(job.strategy).of_head:
            yield f"strategy.{key}", "answers are tokens: no head is trained"
    if _ends_with_its_task(job.strategy, job.scenario, job.memory):
        for key in type(job.strategy).from_second_task:
            yield f"strategy.{key}", "it matters from the second task on, and the stream has one"


def _columns(job: "Job") -> Iterator[tuple[str, str]]:
    """What rows are grouped by is asked for by some scenarios, and by some partitions."""
    source, scenario = job.stream, job.scenario
    partition = None if job.federation is None else job.federation.partition
    asked_for = getattr(partition, "by", None)
    if scenario.kind == "joint":
        why = "scenario.kind is 'joint'"
    elif scenario.time_column is not None:
        why = "scenario.by is given"
    else:
        why = "" if scenario.num_tasks is None else "scenario.num_tasks is given"
    if source.group_key is not None and why and asked_for != GROUP:
        yield f"stream.{source.group_key}", why
    if source.owner_key is not None and asked_for != getattr(source, source.owner_key):
        yield f"stream.{source.owner_key}", "no federation deals rows to clients by it"


def _above(key: str) -> list[str]:
    """The sections that a key is in, the largest first."""
    names = key.split(".")
    return [".".join(names[:end]) for end in range(1, len(names))]


def _dropped(mapping: Mapping[str, Any], key: str) -> dict[str, Any]:
    head, _, rest = key.partition(".")
    result = dict(mapping)
    if not rest:
        result.pop(head, None)
    elif isinstance(result.get(head), Mapping):
        result[head] = _dropped(result[head], rest)
    return result
