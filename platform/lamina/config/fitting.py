"""Which parts of a job, each sound by itself, do not go together."""

from collections.abc import Iterator, Mapping
from typing import Any

from lamina.config.federation import SECTION, not_together
from lamina.config.fields import Unfit
from lamina.config.unused import draws_from_memory, takes_adapter
from lamina.core import AnswerKind
from lamina.evaluation.measures import measure_of
from lamina.memory import policy_names
from lamina.registry import InputError
from lamina.strategies.base import NO_ADAPTER, Strategy
from lamina.training.settings import TrainingSettings


def misfits(sections: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[str]:
    """A line for each. What could not be read is None among the sections, and is left out."""
    strategy, name = sections["strategy"], given["strategy"]["name"]
    scenario, training = sections["scenario"], sections["training"]
    adapter = sections["adapter"] if takes_adapter(type(strategy)) else None
    broken = [key for key in ("adapter", "memory") if given.get(key) and sections[key] is None]
    yield from _with_data(strategy, name, scenario, sections["stream"])
    yield from _answers(strategy, name, sections["stream"])
    yield from _entry(sections["memory"], scenario, sections[SECTION] is not None)
    if training is not None:
        if scenario is not None and scenario.one_pass:
            yield from _passes(strategy, name, training, adapter is not None)
        yield from _probes(training, strategy, name)
        answers: AnswerKind = (
            "classes" if sections["stream"] is None else sections["stream"].answers
        )
        if training.class_weights is not None and answers == "tokens":
            yield (
                f"training.class_weights: {training.class_weights!r} does not go with a stream "
                "whose answers are tokens: there are no classes (allowed: null)"
            )
        try:
            measure_of(training.measure, answers)
        except InputError as error:
            yield Unfit(str(error))
        if sections[SECTION] is not None and training.measure is not None:
            yield (
                f"training.measure: {training.measure!r} does not go with a federation, whose "
                "clients count right rows (allowed: null)"
            )
        if sections[SECTION] is not None:
            kind = None if adapter is None else adapter.name
            yield from not_together(sections[SECTION], name, strategy, kind, training, scenario)
    kind = NO_ADAPTER if adapter is None else adapter.name
    allowed = strategy.adapters if takes_adapter(type(strategy)) else None
    if allowed is not None and kind not in allowed and "adapter" not in broken:
        said = "adapter: null" if adapter is None else f"adapter.kind: {kind!r}"
        words = ", ".join("null" if each == NO_ADAPTER else each for each in allowed)
        yield f"{said} does not go with strategy {name!r} (allowed: {words})"
    draws = draws_from_memory(strategy, scenario, sections["memory"])
    if draws and sections["memory"] is None and "memory" not in broken:
        yield (
            f"memory: missing, and strategy {name!r} draws from one "
            f"(allowed: a mapping with a size, and maybe a policy of {', '.join(policy_names())})"
        )


def _with_data(strategy: Strategy, name: str, scenario: Any, stream: Any) -> Iterator[str]:
    if scenario is not None and scenario.validation + scenario.test >= 1:
        yield (
            f"scenario.validation: {scenario.validation} with scenario.test: {scenario.test} "
            "leaves too little to train on (allowed: shares whose sum is below 1)"
        )
    if scenario is not None and scenario.kind not in strategy.scenarios:
        yield Unfit(
            f"scenario.kind: {scenario.kind!r} does not go with strategy {name!r} "
            f"(allowed: {', '.join(strategy.scenarios)})"
        )
    if stream is not None and stream.modality not in strategy.modalities:
        read = " or ".join(f"{each}s" for each in strategy.modalities)
        yield Unfit(
            f"strategy.name: {name!r} reads {read}, but the stream {stream.name!r} is of "
            f"{stream.modality}s"
        )


def _answers(strategy: Strategy, name: str, stream: Any) -> Iterator[str]:
    """When a strategy has no use for what a stream's answers are."""
    if stream is None or stream.answers in strategy.answers:
        return
    if stream.answers == "tokens":
        yield Unfit(
            f"strategy.name: {name!r} answers with classes alone ({strategy.classes_only}), and "
            f"the answers of the stream {stream.name!r} are tokens (`lamina strategies` lists "
            "those that take tokens)"
        )
    else:
        yield Unfit(
            f"strategy.name: {name!r} answers with tokens, and those of the stream "
            f"{stream.name!r} are classes"
        )


def _entry(memory: Any, scenario: Any, is_federated: bool) -> Iterator[str]:
    """When rows cannot enter the memory as the job says."""
    entry = None if memory is None else memory.entry
    if entry == "task_end" and scenario is not None and scenario.one_pass:
        yield (
            "memory.entry: 'task_end' does not go with an online stream, whose rows are seen once "
            "(allowed: null, as_they_pass)"
        )
    if entry == "as_they_pass" and is_federated:
        yield (
            "memory.entry: 'as_they_pass' does not go with a federation, whose clients keep rows "
            "of a task when it is over (allowed: null, task_end)"
        )


def _passes(
    strategy: Strategy, name: str, training: TrainingSettings, has_adapter: bool
) -> Iterator[str]:
    """What goes over the rows of an online stream more than once."""
    if not strategy.takes_gradient_steps(has_adapter):
        return
    if training.class_weights is not None:
        yield (
            f"training.class_weights: {training.class_weights!r} does not go with an online "
            "stream: how often a class comes is not known before it has come (allowed: null)"
        )
    if training.epochs != 1:
        yield (
            f"training.epochs: {training.epochs} does not go with an online stream, "
            "whose rows are seen once (allowed: 1)"
        )
    if type(strategy).phases is not Strategy.phases:
        yield (
            f"scenario: an online stream shows its rows once, and strategy {name!r} goes over a "
            "task in several phases"
        )


def _probes(training: TrainingSettings, strategy: Strategy, name: str) -> Iterator[str]:
    """What asks a strategy in the middle of a task that can answer only at its end: those that need
    no boundary can answer at any time."""
    given = {
        "anytime_every": training.anytime_every is not None,
        "learning_curve_batches": training.learning_curve_batches > 0,
    }
    for key, wanted in given.items():
        if wanted and "task_free" not in strategy.scenarios:
            yield (
                f"training.{key}: strategy {name!r} cannot be asked in the middle of a task (only "
                "those that take task_free streams can)"
            )
