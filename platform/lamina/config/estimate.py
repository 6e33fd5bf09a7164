"""What a plan is expected to cost on this machine: its kinds of trials measured, its steps
counted."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from statistics import median
from typing import Any

import torch
from torch import Tensor

from lamina.adapters.base import AdapterKind
from lamina.adapters.kinds.lora import LoRA
from lamina.adapters.model import AdaptedModel
from lamina.backbones.backbone import Backbone
from lamina.backbones.load import load_backbone
from lamina.backbones.settings import BackboneSettings
from lamina.config.build import build_learner, keep_features
from lamina.config.job import Job
from lamina.config.plan import SweepPlan
from lamina.config.settings import HostSettings
from lamina.config.stages import shared_stages
from lamina.core import Batch, Experience, Samples, Stream
from lamina.training.forecast import Forecast, Speed, Work, forecast, seconds_per_row, work_of
from lamina.training.learner import Learner
from lamina.training.measured import measured
from lamina.training.pace import STEPS, Pace, TaskPace, measure, num_steps, piece_of
from lamina.training.packing_size import MOST_PACKED, Packing, kept_packing_size
from lamina.training.settings import TrainingSettings

ROWS = 8
"""Rows of the forward that is timed."""
PAIRS = 2
"""How often a forward is timed on a quiet machine, and beside as many busy processes as there will
be other hosts, in turns."""
LEAST_SPREAD = 1.1
"""The higher figure of a plan is so many times the lower one, at least: it is no more exact."""
BUSY = (
    "import numpy as n, os\n"
    "a, b = n.ones((64, 384), 'f'), n.ones((384, 1536), 'f')\n"
    "print(flush=True)\n"
    "while os.getppid() == {parent}: a @ b"
)
"""What keeps a core as busy as a host does, for as long as this process lives; its line of output
says that it has begun."""


@dataclass(frozen=True)
class Group:
    """Trials of a plan that are alike."""

    job: Job
    trials: int
    work: Work
    packing: Packing | None
    """None where its steps run no layer that others could share."""


@dataclass(frozen=True)
class Estimate:
    """What a plan is expected to cost."""

    groups: tuple[Group, ...]
    hosts: int
    forecasts: tuple[Forecast, ...]
    """Of a quiet machine, and of one on which every host is busy."""

    def range(self, name: str) -> tuple[float, float]:
        """The least and the most seconds that they say of `training`, `total` ..."""
        found = [getattr(each, name) for each in self.forecasts]
        return min(found), max(found)

    def saved(self) -> dict[str, tuple[float, float]]:
        """The same of what each lever saves."""
        names = self.forecasts[0].saved
        columns = {name: [each.saved[name] for each in self.forecasts] for name in names}
        return {name: (min(found), max(found)) for name, found in columns.items()}


def estimate(plan: SweepPlan, streams: Sequence[Stream[Samples]]) -> Estimate:
    """Measure learners of each kind of trial on a piece of its stream, and reckon.

    `streams` are those of the plan's points, as `check_components` returned them; a backbone reads
    a piece of each alone. What was measured on this machine before is not measured again.
    """
    job = plan.job
    on_gpu = job.hosts.device != "cpu" and torch.cuda.is_available()
    torch.set_num_threads(job.hosts.threads)
    backbones: dict[BackboneSettings, Backbone] = {}
    pieces: dict[tuple[BackboneSettings, int, int], _Piece] = {}
    kinds: dict[str, _Kind] = {}
    names = []
    for point, raw in zip(plan.points, streams, strict=True):
        trial = replace(point.trial.job, hosts=job.hosts)
        key = trial.backbone, id(raw), trial.training.batch_size
        if trial.backbone not in backbones:
            backbones[trial.backbone] = load_backbone(trial.backbone, "cuda" if on_gpu else "cpu")
            keep_features(backbones[trial.backbone], job.hosts)
        if key not in pieces:
            pieces[key] = _Piece(raw, backbones[trial.backbone], trial.training.batch_size)
        kind = _Kind(trial, pieces[key])
        kind = kinds.setdefault(kind.name, kind)
        names.append(kind.name)
    # This process has imported and loaded what one for a trial would.
    start = time.process_time()
    works = [kinds[name].work(stage) for name, stage in zip(names, _stage_sizes(plan), strict=True)]
    hosts = min(job.hosts.count or _num_devices(job.hosts, on_gpu), plan.num_trials)
    draws = [plan.num_draws(point) for point in plan.points]
    trials = [
        (work, name)
        for work, name, number in zip(works, names, draws, strict=True)
        for _ in range(number)
    ]
    distinct = {(key, stream): _num_rows(each.raw) for (key, stream, _), each in pieces.items()}
    row, slowdown = _row_seconds(next(iter(pieces.values())), 0 if on_gpu else hosts - 1)
    forecasts = [
        forecast(
            [(work, kinds[name].pace.slower(factor)) for work, name in trials],
            Speed(start=start, row=row * factor),
            distinct_rows=sum(distinct.values()),
            hosts=hosts,
            keeps=job.hosts.features_gb > 0,
            halving=_halving(plan),
        )
        for factor in (1.0, max(slowdown, LEAST_SPREAD))
    ]
    groups = [
        Group(kinds[name].job, number, work, kinds[name].packing)
        for work, name, number in zip(works, names, draws, strict=True)
    ]
    return Estimate(tuple(groups), hosts, tuple(forecasts))


class _Piece:
    """What a backbone reads of a stream to be measured."""

    def __init__(self, raw: Stream[Samples], backbone: Backbone, batch_size: int) -> None:
        self.raw = raw
        self.backbone = backbone
        self.stream = backbone.encode_stream(piece_of(raw, batch_size))
        self._filled: set[int] = set()

    def beginning(self, rows: int) -> Batch:
        """The first training rows of the stream, as a host batches them."""
        first = self.raw.experiences[0]
        few = first.train[torch.arange(min(rows, len(first.train)))]
        alone = replace(self.raw, experiences=(Experience(first.task, few, few, few),))
        return self.backbone.encode_stream(alone).experiences[0].train

    @torch.no_grad()
    def fill(self, adapter: AdapterKind | None) -> None:
        """Let the feature store keep what all layers, and those below such an adapter, make of the
        piece, so that no step that is timed computes it."""
        if self.backbone.features is None:
            return
        model = AdaptedModel(self.backbone, adapter, 0)
        model.add()
        overlay, architecture = model.overlay(), self.backbone.architecture
        below = architecture.frozen_below(overlay)
        compute: dict[int, Callable[[Mapping[str, Tensor]], object]] = {
            below: lambda inputs: self.backbone(inputs, overlay),
            architecture.num_layers: self.backbone.frozen_features,
        }
        for layers in sorted(compute.keys() - self._filled - {0}):
            self._filled.add(layers)
            for each in self.stream.experiences:
                for part in (each.train, each.validation, each.test):
                    if len(part):
                        compute[layers](part.to(self.backbone.device).inputs)


class _Kind:
    """Trials that take the same time: their job, and a piece of their stream. Measured when
    asked."""

    def __init__(self, job: Job, piece: _Piece) -> None:
        self.job = job
        self.piece = piece
        self.backbone = piece.backbone

    @cached_property
    def name(self) -> str:
        """The same for trials that take the same time."""
        return repr((self._paced, self.job.training.epochs))

    @cached_property
    def _paced(self) -> str:
        """The same for trials whose steps take the same time."""
        training, stream = asdict(self.job.training), self.piece.raw
        timed = {key: training[key] for key in ("batch_size", "optimizer", "evaluation_batch_size")}
        keeps = self.job.hosts.features_gb > 0
        data = [self.backbone.digest, stream.name, stream.scenario, keeps]
        known = [*data, timed, self.job.mapping["strategy"], self.job.adapter, self.job.memory]
        return repr(known)

    @cached_property
    def packing(self) -> Packing | None:
        """How many of them pay together; None where their steps run no layer to share."""
        job = self.job
        if not job.steps_run_layers or (job.adapter is not None and not job.adapter.packs):
            return None
        batch = self.piece.beginning(job.training.batch_size)
        most = job.hosts.cohort or MOST_PACKED
        return kept_packing_size(self.backbone, job.adapter or LoRA(), batch, most)

    def build(self, piece: Stream[Batch], training: TrainingSettings) -> Learner:
        """A learner of this kind on a piece of its stream."""
        return build_learner(replace(self.job, training=training), piece, self.backbone)

    @cached_property
    def pace(self) -> Pace:
        """Of one of them, alone, on a quiet machine; measured once, and kept."""
        key = {"pace": self._paced, "steps": STEPS}
        found = measured(key, self._measured_pace, self.backbone.device)
        first, later = (TaskPace(**found[name]) for name in ("first", "later"))
        return Pace(first, later, found["answer"], tuple(found["phases"]))

    def _measured_pace(self) -> dict[str, Any]:
        self.piece.fill(self.job.adapter)
        return asdict(measure(self.build, self.piece.stream, self.job.training))

    def work(self, stage: int) -> Work:
        """What a trial of this kind does."""
        saved = 0.0 if self.packing is None else self.packing.alone - self.packing.packed
        batch_size = self.job.training.batch_size
        batches = [-(-rows // batch_size) for rows in self._rows]
        stream = self.piece.raw
        return work_of(stream, self._steps, batches, batch_size, self._share, saved, stage)

    @cached_property
    def _steps(self) -> list[int]:
        """Of each task of the whole stream."""
        epochs, phases = self.job.training.epochs, self.pace.phases
        learner = self.build(self.piece.stream, self.job.training)
        return [
            num_steps(learner, phases, epochs, number, is_first=at == 0)
            for at, number in enumerate(self._rows)
        ]

    @cached_property
    def _rows(self) -> list[int]:
        """Training rows of each task of the whole stream, or of all together, where they are
        learned at once."""
        rows = [len(each.train) for each in self.piece.raw.experiences]
        return [sum(rows)] if self.job.strategy.data == "all" else rows

    @cached_property
    def _share(self) -> float:
        """mu: from its adapter kind, or all layers for a method that lays its own."""
        model = AdaptedModel(self.backbone, self.job.adapter, self.job.seed)
        if self.job.adapter is None:
            return 1.0 if self.job.steps_run_layers else 0.0
        model.add()
        depth = self.backbone.architecture.num_layers
        return 1 - self.backbone.architecture.frozen_below(model.overlay()) / depth


def _row_seconds(piece: _Piece, neighbours: int) -> tuple[float, float]:
    """Seconds of a row's forward through the whole backbone on a quiet machine, and how many times
    as long it takes beside so many busy neighbours."""
    backbone = piece.backbone
    batch = piece.beginning(ROWS)

    def measure_both() -> list[float]:
        pairs = []
        for _ in range(PAIRS):
            quiet = seconds_per_row(backbone, batch)
            with _busy(neighbours):
                pairs.append((quiet, seconds_per_row(backbone, batch)))
        slowdown = median(beside / alone for alone, beside in pairs)
        return [min(alone for alone, _ in pairs), slowdown]

    shapes = {name: list(each.shape) for name, each in sorted(batch.trimmed().inputs.items())}
    key = {"row": backbone.digest, "shapes": shapes, "neighbours": neighbours}
    row, slowdown = measured(key, measure_both, backbone.device)
    return row, slowdown


def _num_devices(hosts: HostSettings, on_gpu: bool) -> int:
    """How many hosts this machine has room for."""
    room = torch.cuda.device_count() if on_gpu else (os.cpu_count() or 1) // hosts.threads
    return max(room // hosts.workers_per_trial, 1)


@contextmanager
def _busy(number: int) -> Iterator[None]:
    """So many other processes that keep a core busy each."""
    program = BUSY.format(parent=os.getpid())
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    running = [
        subprocess.Popen([sys.executable, "-c", program], env=env, stdout=subprocess.PIPE)
        for _ in range(number)
    ]
    try:
        for each in running:
            assert each.stdout is not None
            each.stdout.readline()
        yield
    finally:
        for each in running:
            each.kill()
            each.communicate()


def _stage_sizes(plan: SweepPlan) -> list[int]:
    """How many trials share the first task of each point's."""
    names = {
        point.trial.name: stage.num_trials
        for stage in shared_stages(plan)
        for point in stage.points
    }
    return [names.get(point.trial.name, 1) for point in plan.points]


def _num_rows(stream: Stream[Samples]) -> int:
    parts = [(each.train, each.validation, each.test) for each in stream.experiences]
    return sum(len(part) for three in parts for part in three)


def _halving(plan: SweepPlan) -> tuple[int, int] | None:
    scheduler = (plan.job.sweep.scheduler if plan.job.sweep else None) or {}
    if scheduler.get("name") != "task_halving":
        return None
    return scheduler.get("grace_period", 2), scheduler.get("reduction_factor", 2)
