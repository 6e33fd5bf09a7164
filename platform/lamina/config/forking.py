"""A fork of a trial: the same job with a few keys changed, checked as a job is."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lamina.adapters.model import AdaptedModel
from lamina.backbones.load import outline_backbone
from lamina.config.fields import ConfigError, settings_of
from lamina.config.job import Job, parse_job
from lamina.config.naming import words_of
from lamina.config.overrides import VARYING, dotted, laid_over, nested
from lamina.config.plan import Trial
from lamina.config.reading import Plain, read_overrides
from lamina.config.sections import stays
from lamina.config.unused import Reasons, covering
from lamina.registry import unknown
from lamina.strategies import strategy_class

_REFUSED = {
    "adapter": "its tensors are in the checkpoint",
    "backbone": "what is trained was trained on it",
    "stream": "the accuracies so far are of its tasks",
    "scenario": "the accuracies so far are of its tasks",
    "seed": "the order of the stream and what was drawn so far follow from it",
}
"""Sections of a trial's job that its checkpoint depends on."""
_CHANGEABLE = [each for each in VARYING if each not in _REFUSED]


def fork_trial(mapping: Mapping[str, Any], words: Sequence[str]) -> Trial:
    """The trial that `KEY=VALUE` words make of the job `mapping` of another, from one of its task
    boundaries on.

    Raises ConfigError with a line for every key that no job has, that changes nothing, or that
    makes the checkpoint meaningless.
    """
    problems: list[str] = []
    over = nested(read_overrides(words), problems)
    changes = dotted(over)
    before = parse_job(mapping)
    problems += meaningless(before, changes)
    sections = {key: why for key, why in before.idle.items() if key in _CHANGEABLE}
    problems += _changing_nothing(changes, sections)
    if problems:
        raise ConfigError(*problems)
    job = parse_job(laid_over(dict(mapping), over, stays))
    problems += _changing_nothing(changes, job.idle)
    if problems:
        raise ConfigError(*problems)
    if _shapes(before) != _shapes(job):
        keys = ", ".join(key for key in changes if key.startswith("strategy."))
        raise ConfigError(f"{keys}: another value does not fit the tensors in the checkpoint")
    settled = parse_job(job.settings())
    own = dotted(settled.mapping)
    settings = {key: own[key] for key in changes if key in own}
    return Trial("-".join(words_of(settings, settings)), settled, settings)


def _changing_nothing(changes: Plain, idle: Reasons) -> Iterator[str]:
    for key in changes:
        above = covering(key, idle)
        if above is not None:
            yield f"{key}: changes nothing, as {idle[above]}"


def meaningless(job: Job, changes: Plain) -> Iterator[str]:
    """What a fork cannot change, a line each."""
    name = job.strategy_name
    for key, value in changes.items():
        section, _, rest = key.partition(".")
        if section in _REFUSED:
            yield f"{key}: a fork cannot change it, as {_REFUSED[section]}"
        elif section not in VARYING:
            yield str(unknown("KEY", section, _CHANGEABLE))
        elif key == "strategy.name" and value != name:
            yield "strategy.name: a fork cannot change it, as its state is in the checkpoint"
        elif section == "strategy" and _is_built_in(name, rest):
            yield f"{key}: a fork cannot change it, as it shapes what is in the checkpoint"
        elif (
            key == "training.optimizer"
            and job.scenario.kind == "task_free"
            and value != job.training.optimizer
        ):
            yield (
                "training.optimizer: a fork cannot change it, as what the optimiser remembers is "
                "in the checkpoint of a task_free stream"
            )


def _is_built_in(strategy: str, key: str) -> bool:
    """Whether a hyper-parameter shapes what a strategy keeps.

    Numbers that weigh something (floats) do not; counts and words (the size of a pool, the width of
    a projection) may, and are let through only where the strategy declares that nothing that is
    kept after the first task depends on them.
    """
    cls = strategy_class(strategy)
    field = settings_of(cls).get(key)
    return field is not None and field.type is not float and key not in cls.from_second_task


def _shapes(job: Job) -> dict[str, tuple[int, ...]]:
    """The names and shapes of all tensors that a strategy has before its first task, without
    loading a weight."""
    model = AdaptedModel(outline_backbone(job.backbone), job.adapter, job.seed)
    replace(job.strategy).setup(model)
    return {
        f"{name}.{key}": tuple(tensor.shape)
        for name, adapter in model.adapters.items()
        for key, tensor in adapter.tensors.items()
    }
