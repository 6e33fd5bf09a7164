"""How fast a learner trains and answers on this machine: real learners on a small piece of a
stream."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from lamina.core import Batch, Stream
from lamina.training.learner import Learner
from lamina.training.measured import clock_of
from lamina.training.settings import TrainingSettings

Build = Callable[[Stream[Batch], TrainingSettings], Learner]
"""A new learner on a stream."""

MOST_TASKS = 2
"""Tasks of a piece: in the second, replay and what else concerns old tasks has begun."""
STEPS = (1, 4)
"""Steps of a task in the smaller and in the larger piece."""
ANSWERED_ROWS = 8
"""Rows of a validation or test part of a piece, at most."""
ROWS_PER_CLASS = 2
"""A piece has at least so many training rows of a task per class: statistics need two."""


@dataclass(frozen=True)
class TaskPace:
    """Seconds that one task takes."""

    task: float
    """Seconds of work that is done once in a task: solving, merging, a look at its rows."""
    step: float
    """Seconds of a step; or of a batch of rows, where a method takes no steps."""


@dataclass(frozen=True)
class Pace:
    """Seconds of one trial, alone, with what its backbone keeps."""

    first: TaskPace
    later: TaskPace
    """A task after the first: exemplars are replayed, teachers are asked."""
    answer: float
    """Seconds per row of an evaluation."""
    phases: tuple[float, ...]
    """The result of `Strategy.phases` for the last task, when it was learned: the number of phases
    may depend on what the strategy found."""

    def slower(self, factor: float) -> "Pace":
        """The pace of a machine that is slower by this factor."""
        first, later = (
            TaskPace(each.task * factor, each.step * factor) for each in (self.first, self.later)
        )
        return Pace(first, later, self.answer * factor, self.phases)


def num_steps(
    learner: Learner, phases: Sequence[float], epochs: int, rows: int, *, is_first: bool
) -> int:
    """Steps of a learner in a task of so many training rows, in all phases; batches of one pass
    where it takes no step."""
    strategy = learner.strategy
    batches = -(-rows // learner.training.batch_size)
    if not strategy.takes_gradient_steps(has_adapter=learner.model.kind is not None):
        return batches
    if strategy.trained_tasks == "first" and not is_first:
        return batches
    if learner.stream.one_pass:
        return batches
    return batches * sum(max(1, round(share * epochs)) for share in phases)


def warm_up(
    build: Build, stream: Stream[Batch], training: TrainingSettings, *, keeps: bool
) -> Learner:
    """A learner that has learned a piece, so that nothing is computed for the first time when its
    like is measured: the larger piece where it `keeps` features of its rows, and where it replays,
    two tasks."""
    steps = STEPS[1] if keeps else STEPS[0]
    learner = build(_piece(stream, training.batch_size, steps), replace(training, epochs=1))
    replays = learner.strategy.needs_memory or learner.strategy.data == "all"
    for _ in learner.learn():
        if not replays:
            break
    return learner


def measure(build: Build, stream: Stream[Batch], training: TrainingSettings) -> Pace:
    """The pace of learners like `build`'s, from a smaller and a larger piece of `stream`: what both
    take is of the task, what the larger takes more is of its steps."""
    found = []
    phases: tuple[float, ...] = ()
    for steps in STEPS:
        piece = _piece(stream, training.batch_size, steps)
        learner = build(piece, replace(training, epochs=1))
        learner.scores.clock = clock_of(learner.model.backbone.device)
        reports = [each.metrics for each in learner.learn()]
        trained = [0.0, *(each["cost/train_seconds"] for each in reports)]
        asked = _rows_asked(piece, len(reports))
        phases = tuple(learner.strategy.phases(piece.experiences[-1].task))
        found.append(
            (
                _steps_and_seconds(learner, piece, 0, len(reports), trained[1]),
                _steps_and_seconds(learner, piece, -1, len(reports), trained[-1] - trained[-2]),
                reports[-1]["cost/evaluation_seconds"] / max(asked, 1),
            )
        )
    small, large = found
    return Pace(
        first=_line(small[0], large[0]),
        later=_line(small[1], large[1]),
        answer=min(small[2], large[2]),
        phases=phases,
    )


def _piece(stream: Stream[Batch], batch_size: int, steps: int) -> Stream[Batch]:
    """Few rows of few tasks, evenly spaced."""
    experiences = []
    for each in stream.experiences[:MOST_TASKS]:
        classes = len(each.task.classes)
        wanted = max(steps * batch_size, ROWS_PER_CLASS * classes)
        experiences.append(
            replace(
                each,
                train=_spaced(each.train, wanted),
                validation=_spaced(each.validation, ANSWERED_ROWS),
                test=_spaced(each.test, ANSWERED_ROWS),
            )
        )
    return replace(stream, experiences=tuple(experiences))


def _spaced(data: Batch, most: int) -> Batch:
    if len(data) <= most:
        return data
    return data[torch.arange(most) * len(data) // most]


def _steps_and_seconds(
    learner: Learner, piece: Stream[Batch], at: int, reports: int, seconds: float
) -> tuple[int, float]:
    sizes = [len(each.train) for each in piece.experiences]
    # One that sees all tasks at once reports once.
    rows = sum(sizes) if learner.strategy.data == "all" else sizes[at]
    is_first = at == 0 or reports == 1
    phases = learner.strategy.phases(piece.experiences[-1].task)
    return num_steps(learner, phases, 1, rows, is_first=is_first), seconds


def _rows_asked(piece: Stream[Batch], reports: int) -> int:
    sizes = [len(each.validation) + len(each.test) for each in piece.experiences]
    if piece.scenario == "domain_incremental":
        return sum(sizes) * reports
    return sum(sum(sizes[: at + 1]) for at in range(len(sizes) - reports, len(sizes)))


def _line(small: tuple[int, float], large: tuple[int, float]) -> TaskPace:
    """Seconds per step and beside the steps; all are of the steps where the pieces are alike."""
    steps = large[0] - small[0]
    if steps <= 0:
        return TaskPace(0.0, large[1] / large[0])
    step = min(max(0.0, (large[1] - small[1]) / steps), large[1] / large[0])
    return TaskPace(max(0.0, large[1] - step * large[0]), step)
