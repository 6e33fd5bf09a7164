"""`lamina sweep JOB --plan`: what a sweep is going to do and to cost, without doing it; and what it
cost, beside that."""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from lamina.adapters.kinds.lora import LoRA
from lamina.adapters.model import AdaptedModel
from lamina.backbones.backbone import Backbone
from lamina.backbones.load import load_backbone
from lamina.config import Job, SweepPlan, shared_stages
from lamina.core import Batch, Samples, Stream
from lamina.training.forecast import Forecast, Speed, Work, forecast, seconds_per_row, work_of
from lamina.training.packing_size import MOST_PACKED, Packing, packing_size

ROWS = 64
"""How many rows are tried."""
FILE = "plan.json"
"""Where the forecast waits for the sweep, in its output folder."""


def show_plan(console: Console, plan: SweepPlan, streams: Sequence[Stream[Samples]]) -> None:
    """Measure a few batches, and print cohorts, levers, time and memory."""
    job = plan.job
    on_gpu = job.hosts.device != "cpu" and torch.cuda.is_available()
    torch.set_num_threads(job.hosts.threads)
    backbone = load_backbone(job.backbone, "cuda" if on_gpu else "cpu")
    # This process has imported and loaded what one for a trial would.
    start = time.process_time()
    encoded = {id(each): backbone.encode_stream(each) for each in streams}
    jobs = [point.trial.job for point in plan.points]
    packing = _tried(backbone, jobs, encoded[id(streams[0])])
    stages = _stage_sizes(plan)
    works, rows = [], []
    for point, raw, stage in zip(plan.points, streams, stages, strict=True):
        stream = encoded[id(raw)]
        work = _work_of(point.trial.job, stream, backbone, stage)
        works += [work] * plan.num_draws(point)
        rows.append((point.trial.job, work, plan.num_draws(point)))
    speed = Speed(
        start=start,
        row=seconds_per_row(backbone, encoded[id(streams[0])].experiences[0].train[slice(0, ROWS)]),
        gain=packing.alone / packing.packed,
    )
    expected = forecast(
        works,
        speed,
        distinct_rows=sum(_num_rows(each) for each in encoded.values()),
        hosts=job.hosts.count or (torch.cuda.device_count() if on_gpu else 1),
        keeps=job.hosts.features_gb > 0,
        halving=_halving(plan),
    )
    _show_cohorts(console, rows, packing, job)
    _show_levers(console, expected)
    job.output_dir.mkdir(parents=True, exist_ok=True)
    (job.output_dir / FILE).write_text(json.dumps(asdict(expected), indent=1), encoding="utf-8")


def show_outcome(console: Console, output_dir: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """What was expected and what it was, where somebody had asked for a plan."""
    path = output_dir / FILE
    if not path.exists():
        return
    expected = json.loads(path.read_text(encoding="utf-8"))
    console.print("\nSeconds of one device, as planned and as it was")
    for name in ("training", "evaluation"):
        key = f"cost/{name.removesuffix('ing')}_seconds"
        took = sum(row["reports"][-1]["metrics"][key] for row in rows if row["reports"])
        planned = expected[name] + (expected["features"] if name == "training" else 0.0)
        console.print(f"{name}: planned {planned:,.0f}, took {took:,.0f}")


def _tried(backbone: Backbone, jobs: Sequence[Job], stream: Stream[Batch]) -> Packing:
    """Packs of the first job that has something to pack."""
    packed = [each for each in jobs if each.steps_run_layers]
    if not packed:
        return Packing(size=1, alone=1.0, packed=1.0)
    job = next((each for each in packed if each.adapter is not None), packed[0])
    batch = stream.experiences[0].train[slice(0, job.training.batch_size)]
    return packing_size(backbone, job.adapter or LoRA(), batch, job.hosts.cohort or MOST_PACKED)


def _has_steps(job: Job) -> bool:
    return job.strategy.takes_gradient_steps(job.adapter is not None)


def _work_of(job: Job, stream: Stream[Batch], backbone: Backbone, stage: int) -> Work:
    epochs = job.training.epochs * sum(job.strategy.phases(stream.experiences[0].task))
    if job.strategy.trained_tasks == "first":
        epochs /= len(stream)
    return work_of(stream, epochs, _share(job, backbone), _has_steps(job), stage)


def _share(job: Job, backbone: Backbone) -> float:
    """mu of a job: from its adapter kind, or all layers for a method that lays its own."""
    model = AdaptedModel(backbone, job.adapter, job.seed)
    if job.adapter is None:
        return 1.0 if job.steps_run_layers else 0.0
    model.add()
    depth = backbone.architecture.num_layers
    return 1 - backbone.frozen_below(model.overlay()) / depth


def _stage_sizes(plan: SweepPlan) -> list[int]:
    """How many trials share the first task of each point's."""
    names = {
        point.trial.name: stage.num_trials
        for stage in shared_stages(plan)
        for point in stage.points
    }
    return [names.get(point.trial.name, 1) for point in plan.points]


def _num_rows(stream: Stream[Batch]) -> int:
    parts = [(each.train, each.validation, each.test) for each in stream.experiences]
    return sum(len(part) for three in parts for part in three)


def _halving(plan: SweepPlan) -> tuple[int, int] | None:
    scheduler = (plan.job.sweep.scheduler if plan.job.sweep else None) or {}
    if scheduler.get("name") != "task_halving":
        return None
    return scheduler.get("grace_period", 2), scheduler.get("reduction_factor", 2)


def _show_cohorts(
    console: Console, rows: Sequence[tuple[Job, Work, int]], packing: Packing, job: Job
) -> None:
    table = Table(title="Cohorts", title_justify="left", header_style="bold", box=None)
    for name in ("strategy", "adapter", "trials", "layers that are trained", "packed"):
        table.add_column(name)
    groups: Counter[tuple[str, str, float, str]] = Counter()
    for each, work, number in rows:
        kind = each.adapter.name if each.adapter else "-"
        groups[each.strategy_name, kind, work.share, _how(each, work, packing, job)] += number
    for (strategy, kind, share, how), number in groups.items():
        table.add_row(strategy, kind, str(number), f"{share:.0%}", how)
    console.print(table)


def _how(job: Job, work: Work, packing: Packing, whole: Job) -> str:
    if not work.has_steps:
        return "no: takes no step"
    if job.adapter is not None and not job.adapter.packs:
        return f"no: {job.adapter.name!r} brings modules of its own"
    if work.share == 0 and whole.hosts.features_gb > 0:
        return "no: features are kept, so its steps run no layer"
    size = whole.hosts.cohort or packing.size
    if size == 1:
        return f"no: a batch of {job.training.batch_size} rows fills the device"
    return f"up to {size}"


def _show_levers(console: Console, expected: Forecast) -> None:
    table = Table(title="\nSeconds of one device", title_justify="left", header_style="bold")
    table.box = None
    table.add_column("")
    table.add_column("seconds", justify="right")
    table.add_row("a process for each trial", f"{expected.by_hand:,.0f}")
    for name, seconds in expected.saved.items():
        table.add_row(f"saved by {name}", f"{seconds:,.0f}")
    for name in ("start", "features", "training", "evaluation", "overhead", "total"):
        table.add_row(f"expected: {name}", f"{getattr(expected, name):,.0f}")
    console.print(table)
