"""What a sweep will cost, and what each way of not computing things twice saves: sums over measured
paces.

Layers below the first adapted one never change; mu is the share of the others. With kept features a
step and an evaluation run mu of the layers, and that is what a pace measures. Without them each row
needs the frozen layers' forward too: (1 - mu) of a row's forward.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log

import torch

from lamina.backbones.backbone import Backbone
from lamina.backbones.calls import Call
from lamina.backbones.overlay import Overlay
from lamina.core import Batch, Samples, Stream
from lamina.training.measured import clock_of
from lamina.training.pace import Pace, TaskPace

OVERHEAD_SECONDS = 0.3
"""Seconds of a trial besides its training and evaluation (`tests/benchmarks/overhead.py`)."""
ROW_SECONDS = 0.2
"""Seconds for which a row's forward is measured, at least."""


@dataclass(frozen=True)
class Speed:
    """Measured speeds of the device."""

    start: float
    """Seconds until a process has imported what it needs and holds the backbone."""
    row: float
    """Seconds of a row's forward through the whole backbone."""


@dataclass(frozen=True)
class Work:
    """The work of one trial."""

    num_tasks: int
    first_steps: int
    """Steps of the first task, or batches of one pass where a method takes none."""
    later_steps: int
    """Steps of all later tasks."""
    trained_rows: int
    """Rows of all steps, without those of exemplars, teachers and other forwards that only a method
    knows of."""
    evaluated_rows: int
    """Rows of all evaluations."""
    share: float
    """mu, the share of the layers that an adapter changes."""
    first_batches: int = 0
    """Batches of the first task's rows."""
    later_batches: int = 0
    """Batches of the rows of all later tasks."""
    saved_by_packing: float = 0.0
    """Seconds that packing saves of a step."""
    stage: int = 1
    """How many trials share its first task."""


@dataclass(frozen=True)
class Forecast:
    """Seconds of one core or GPU, all trials together."""

    by_hand: float
    """A process for each trial, everything computed anew."""
    start: float
    features: float
    training: float
    evaluation: float
    overhead: float
    saved: dict[str, float]
    """Seconds saved by each lever, in the order in which they are applied."""

    @property
    def total(self) -> float:
        """The seconds that the sweep will take."""
        return self.start + self.features + self.training + self.evaluation + self.overhead


def work_of(
    stream: Stream[Samples] | Stream[Batch],
    steps: Sequence[int],
    batches: Sequence[int],
    batch_size: int,
    share: float,
    saved_by_packing: float,
    stage: int,
) -> Work:
    """The work of a trial on a stream; `steps` of each of its tasks, and `batches` of its rows."""
    asked = [len(each.validation) + len(each.test) for each in stream.experiences]
    every_task = stream.scenario == "domain_incremental"
    seen = [sum(asked if every_task else asked[: at + 1]) for at in range(len(asked))]
    # One that waits for the last task is evaluated once.
    evaluated = sum(seen[-len(steps) :])
    rows = sum(steps) * batch_size
    return Work(
        num_tasks=len(steps),
        first_steps=steps[0],
        later_steps=sum(steps[1:]),
        trained_rows=rows,
        evaluated_rows=evaluated,
        share=share,
        first_batches=batches[0],
        later_batches=sum(batches[1:]),
        saved_by_packing=saved_by_packing,
        stage=stage,
    )


def forecast(
    trials: Sequence[tuple[Work, Pace]],
    speed: Speed,
    *,
    distinct_rows: int,
    hosts: int,
    keeps: bool,
    halving: tuple[int, int] | None = None,
) -> Forecast:
    """The costs of a sweep's trials on streams of `distinct_rows`.

    `keeps`: features are kept. `halving`: the scheduler's grace period and reduction factor.
    """

    def costs(keeps: bool, packs: bool, shares: bool, halves: bool) -> tuple[float, float]:
        train = evaluation = 0.0
        for work, pace in trials:
            tasks = work.num_tasks
            packed = work.saved_by_packing if packs else 0.0
            first = _seconds(pace.first, packed, 1, work.first_steps, work.first_batches)
            later = _seconds(pace.later, packed, tasks - 1, work.later_steps, work.later_batches)
            prefix = 0.0 if keeps else speed.row * (1 - work.share)
            rest = _share_learned(tasks, halving) if halves else 1.0
            once = 1 / work.stage if shares else 1.0
            train += rest * (first * once + later + prefix * work.trained_rows)
            evaluation += rest * work.evaluated_rows * (pace.answer + prefix)
        return train, evaluation

    frozen = {work.share for work, _ in trials if work.share < 1}
    features = sum(speed.row * distinct_rows * (1 - share) for share in frozen) if keeps else 0.0
    levers = [(False, False, False, False), (keeps, False, False, False)]
    levers += [(keeps, True, False, False), (keeps, True, True, False), (keeps, True, True, True)]
    totals = [sum(costs(*each)) for each in levers]
    names = ("kept features", "packing", "shared first stages", "halving")
    saved = {name: totals[at] - totals[at + 1] for at, name in enumerate(names)}
    saved["kept features"] -= features
    starts = speed.start * len(trials)
    started = speed.start * hosts
    train, evaluation = costs(*levers[-1])
    return Forecast(
        by_hand=starts + totals[0],
        start=started,
        features=features,
        training=train,
        evaluation=evaluation,
        overhead=OVERHEAD_SECONDS * len(trials),
        saved={"hosts that stay": starts - started, **saved},
    )


def _seconds(pace: TaskPace, packed: float, tasks: int, steps: int, batches: int) -> float:
    return pace.task * tasks + max(pace.step - packed, 0.0) * steps + pace.look * batches


def _share_learned(num_tasks: int, halving: tuple[int, int] | None) -> float:
    """The share of all tasks of all trials that is learned under halving."""
    if halving is None:
        return 1.0
    grace, factor = halving
    rungs = int(log(max(num_tasks - 1, 1) / grace) / log(factor)) + 1 if num_tasks > grace else 0
    bounds = [0, *(grace * factor**rung for rung in range(rungs)), num_tasks]
    spans = enumerate(pairwise(bounds))
    return sum((end - begin) / factor**at for at, (begin, end) in spans) / num_tasks


@torch.no_grad()
def seconds_per_row(backbone: Backbone, batch: Batch) -> float:
    """Seconds per row of a forward of the whole backbone on rows like these: the mean over a
    while."""
    call = Call(batch.trimmed().to(backbone.device).inputs, Overlay())
    with backbone.by_itself(whole=True):
        backbone.run(call)
        clock = clock_of(backbone.device)
        start, passes = clock(), 0
        while passes < 1 or clock() - start < ROW_SECONDS:
            backbone.run(call)
            passes += 1
        return (clock() - start) / passes / len(batch)
