"""How fast a learner trains and answers on this machine: real learners on a small piece of a
stream."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TypeVar

import torch

from lamina.core import Batch, Experience, Samples, Stream
from lamina.training.learner import Learner
from lamina.training.measured import clock_of
from lamina.training.settings import TrainingSettings
from lamina.training.stopwatch import Lap, Stopwatch

D = TypeVar("D", Batch, Samples)
Build = Callable[[Stream[Batch], TrainingSettings], Learner]
"""A new learner on a stream."""

MOST_TASKS = 2
"""Tasks of a piece: in the second, replay and what else concerns old tasks has begun."""
STEPS = 3
"""Steps of a task in a piece. What the first takes longer than the others is done once a task."""
ANSWERED_ROWS = 4
"""Rows of a validation or test part of a piece, at most."""
ROWS_PER_CLASS = 2
"""A piece has at least so many training rows of a task per class: statistics need two."""
NOISY = 1.0
"""A piece that is trained in fewer seconds is learned once more by a new learner, whose times
count: in the first, some things are done for the first time."""
SLOW = 10.0
"""Where the first task of a piece takes more seconds, it is the only one that is learned, and a
later task is taken to be like it."""


@dataclass(frozen=True)
class TaskPace:
    """Seconds that one task takes."""

    task: float
    """Seconds of work that is done once in a task, however many rows it has: solving, merging."""
    step: float
    """Seconds of a step; or of a batch of rows, where a method takes no steps."""
    look: float = 0.0
    """Seconds of what is done with a batch of rows once in a task, beside its steps."""


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
            TaskPace(each.task * factor, each.step * factor, each.look * factor)
            for each in (self.first, self.later)
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


def measure(build: Build, piece: Stream[Batch], training: TrainingSettings) -> Pace:
    """The pace of learners like `build`'s, from one that learns a piece of a stream, as `piece_of`
    gives it."""
    once = replace(training, epochs=1)
    found, seconds = _learned(build(piece, once))
    if seconds < NOISY:
        found, _ = _learned(build(piece, once))
    return found


def _learned(learner: Learner) -> tuple[Pace, float]:
    """The pace of a learner, and the seconds that it was trained."""
    clock = clock_of(learner.model.backbone.device)
    watch = learner.scores.stopwatch = Stopwatch(clock)
    learner.scores.clock = clock
    experiences, batch_size = learner.stream.experiences, learner.training.batch_size
    tasks: list[TaskPace] = []
    phases: tuple[float, ...] = ()
    trained, answering, asked = 0.0, 0.0, 0
    for report in learner.learn():
        phases = tuple(learner.strategy.phases(experiences[report.task].task))
        # One that sees all tasks at once reports once.
        seen = experiences if learner.strategy.data == "all" else experiences[report.task :][:1]
        batches = -(-sum(len(each.train) for each in seen) // batch_size)
        seconds = report.metrics["cost/train_seconds"] - trained
        tasks.append(task_pace(watch.laps, seconds, batches))
        trained += seconds
        answering = report.metrics["cost/evaluation_seconds"]
        asked += _rows_asked(learner.stream, report.task)
        watch.laps = []
        if trained > SLOW:
            break
    return Pace(tasks[0], tasks[-1], answering / max(asked, 1), phases), trained


def task_pace(laps: Sequence[Lap], seconds: float, batches: int) -> TaskPace:
    """The pace in a task of so many batches that was learned with these laps, in so many seconds
    in all."""
    steps = [lap.seconds for lap in laps if lap.is_step]
    looks = sum(lap.seconds for lap in laps if not lap.is_step)
    if not steps:
        return TaskPace(max(0.0, seconds - looks), looks / batches)
    step = fmean(steps[1:] or steps)
    once = max(0.0, seconds - looks - step * len(steps))
    return TaskPace(once, step, looks / batches)


def piece_of(stream: Stream[D], batch_size: int) -> Stream[D]:
    """Few rows of few tasks, evenly spaced."""
    experiences = []
    for each in stream.experiences[:MOST_TASKS]:
        wanted = max(STEPS * batch_size, ROWS_PER_CLASS * len(each.task.classes))
        parts = (
            _spaced(each.train, wanted),
            _spaced(each.validation, ANSWERED_ROWS),
            _spaced(each.test, ANSWERED_ROWS),
        )
        experiences.append(Experience(each.task, *parts))
    return replace(stream, experiences=tuple(experiences))


def _spaced(data: D, most: int) -> D:
    if len(data) <= most:
        return data
    return data[torch.arange(most) * len(data) // most]


def _rows_asked(piece: Stream[Batch], task: int) -> int:
    """After a task."""
    every_task = piece.scenario == "domain_incremental"
    asked = piece.experiences if every_task else piece.experiences[: task + 1]
    return sum(len(each.validation) + len(each.test) for each in asked)
