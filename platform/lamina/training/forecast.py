"""What a sweep will cost, and what each way of not computing things twice saves: a model of costs
over a few measured seconds.

Of L layers, those below the first adapted one never change; mu is the share of the others. A step
alone is a forward of all layers and a backward of the upper ones, (1 + mu) forwards, since frozen
weights need no gradient of their own. With kept features it is 2 mu, and an evaluation mu.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log

import torch

from lamina.backbones.backbone import Backbone, Call
from lamina.backbones.overlay import Overlay
from lamina.core import Batch, Stream

OVERHEAD_SECONDS = 0.3
"""What a trial takes beyond its training and evaluation (`tests/benchmarks/overhead.py`)."""


@dataclass(frozen=True)
class Speed:
    """What was measured on this device."""

    start: float
    """Seconds until a process has imported what it needs and holds the backbone."""
    row: float
    """Seconds of a row's forward through the whole backbone."""
    gain: float
    """How much faster a step is in a pack of the size that pays."""


@dataclass(frozen=True)
class Work:
    """What one trial does."""

    num_tasks: int
    trained_rows: int
    """Rows of all steps, or of the one pass of a method without steps; not those of exemplars,
    teachers and other forwards that only a method knows of."""
    evaluated_rows: int
    """Rows of all evaluations."""
    share: float
    """mu."""
    has_steps: bool
    """Whether it takes gradient steps."""
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
    """By each lever, in the order in which they are applied."""

    @property
    def total(self) -> float:
        """What the sweep will take."""
        return self.start + self.features + self.training + self.evaluation + self.overhead


def work_of(
    stream: Stream[Batch], epochs: float, share: float, has_steps: bool, stage: int
) -> Work:
    """The work of a trial on a stream; `epochs` over all phases."""
    sizes = [len(each.train) for each in stream.experiences]
    asked = [len(each.validation) + len(each.test) for each in stream.experiences]
    every_task = stream.scenario == "domain_incremental"
    seen = [sum(asked if every_task else asked[: at + 1]) for at in range(len(asked))]
    rows = round(sum(sizes) * (epochs if has_steps else 1))
    return Work(len(sizes), rows, sum(seen), share, has_steps, stage)


def forecast(
    works: Sequence[Work],
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
    row = speed.row

    def costs(keeps: bool, gain: float, shares_stages: bool, halves: bool) -> tuple[float, float]:
        train = evaluation = 0.0
        for work in works:
            step = (2 * work.share if keeps else 1 + work.share) / (gain if work.share else 1.0)
            once = work.share if keeps else 1.0
            tasks = work.num_tasks - (1 - 1 / work.stage if shares_stages else 0.0)
            part = tasks / work.num_tasks * (_kept(work.num_tasks, halving) if halves else 1.0)
            train += part * row * work.trained_rows * (step if work.has_steps else once)
            evaluation += part * row * work.evaluated_rows * once
        return train, evaluation

    frozen = {work.share for work in works if work.share < 1}
    features = sum(row * distinct_rows * (1 - share) for share in frozen) if keeps else 0.0
    levers = [(False, 1.0, False, False), (keeps, 1.0, False, False)]
    levers += [(keeps, speed.gain, False, False), (keeps, speed.gain, True, False)]
    levers += [(keeps, speed.gain, True, True)]
    totals = [sum(costs(*each)) for each in levers]
    names = ("kept features", "packing", "shared first stages", "halving")
    saved = {name: totals[at] - totals[at + 1] for at, name in enumerate(names)}
    saved["kept features"] -= features
    starts = speed.start * len(works)
    started = speed.start * hosts
    train, evaluation = costs(*levers[-1])
    return Forecast(
        by_hand=starts + totals[0],
        start=started,
        features=features,
        training=train,
        evaluation=evaluation,
        overhead=OVERHEAD_SECONDS * len(works),
        saved={"hosts that stay": starts - started, **saved},
    )


def _kept(num_tasks: int, halving: tuple[int, int] | None) -> float:
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
    """Of a forward of the whole backbone on rows like these."""
    call = Call(batch.trimmed().to(backbone.device).inputs, Overlay())
    with backbone.by_itself(whole=True):
        backbone.run(call)
        start = time.perf_counter()
        backbone.run(call)
        if backbone.device.type == "cuda":
            torch.cuda.synchronize(backbone.device)
    return (time.perf_counter() - start) / len(batch)
