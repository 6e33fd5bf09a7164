"""`lamina run`: one trial in this process, without Ray."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

import click
import torch
from rich.console import Console
from rich.table import Table

from lamina.backbones.load import load_backbone
from lamina.cli.progress import Display, display, numbers
from lamina.cli.report import RESULT, RUNS, show_leaderboard, show_mlflow, stdout
from lamina.config import (
    HostSettings,
    Job,
    Trial,
    build_learner,
    check_parts,
    keep_features,
    load_job,
    lone_trial,
)
from lamina.config.reading import read_overrides
from lamina.core import Samples, Stream
from lamina.evaluation.leaderboard import leaderboard
from lamina.orchestration.store.event_recorder import EventRecorder
from lamina.orchestration.store.identity import trial_id
from lamina.registry import InputError
from lamina.tracking.base import CompositeTracker, Tracker, TrackingError
from lamina.tracking.json_lines import JsonLinesTracker
from lamina.training.learner import Learner

Report = dict[str, Any]


def run_job(path: Path, overrides: Sequence[str]) -> None:
    """Train a job's own trial, its sweep left aside, and show what came out.

    Everything is in `<output_dir>/run/<trial>/`: the accuracy matrix, the adapters, result.json and
    events.jsonl. The same trial has the same folder, and the same numbers.
    """
    console = stdout()
    job = load_job(path, overrides)
    if job.federation is not None:
        raise InputError(
            f"federation: {str(path)!r} is for `lamina federate`, or for `lamina sweep` (allowed "
            "here: null, which trains one learner on all rows)"
        )
    trial = lone_trial(job, read_overrides(overrides))
    (raw,) = check_parts([trial.job])
    learner = _learner(trial.job, raw)
    for section, why in job.unused.items():
        console.print(f"{section} changes nothing: {why}", markup=False)
    identity = trial_id(trial.job.mapping)
    folder = job.output_dir / RUNS / identity
    shutil.rmtree(folder, ignore_errors=True)
    recorder = EventRecorder(_tracker(job, folder, str(path)), folder.parent)
    try:
        reports = _train(learner, trial, identity, folder, recorder, console)
    finally:
        try:
            recorder.close()
        except TrackingError as error:
            click.echo(f"tracking: {error}", err=True)
    _show(trial, identity, reports, folder, console)


def _learner(job: Job, raw: Stream[Samples]) -> Learner:
    device = _device(job.hosts)
    torch.set_num_threads(job.hosts.threads)
    backbone = load_backbone(job.backbone, device)
    keep_features(backbone, job.hosts)
    return build_learner(job, backbone.encode_stream(raw), backbone)


def _device(hosts: HostSettings) -> torch.device:
    if hosts.device == "cuda" and not torch.cuda.is_available():
        raise InputError("hosts.device: 'cuda' is not there (allowed: auto, cpu)")
    on_gpu = hosts.device != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if on_gpu else "cpu")


def _tracker(job: Job, folder: Path, source: str) -> Tracker:
    """MLflow runs stand beside those of the job's sweeps; the events are the run's own."""
    trackers: list[Tracker] = [JsonLinesTracker(folder)]
    if job.tracking.enabled:
        from lamina.tracking.mlflow_tracker import MlflowTracker

        mlflow = MlflowTracker(
            job.output_dir,
            run=uuid4().hex,
            experiment=job.tracking.experiment or job.name,
            uri=job.tracking.mlflow_uri,
            source=source,
        )
        trackers.append(mlflow)
    return CompositeTracker(trackers)


def _train(
    learner: Learner,
    trial: Trial,
    identity: str,
    folder: Path,
    recorder: EventRecorder,
    console: Console,
) -> list[Report]:
    """Learn every task and report it to recorder and display. Leaves no run open, come what may."""

    def tell(event: str, **more: Any) -> None:
        recorder.record({"event": event, "trial": identity, **more}, [(trial.name, reports)])

    reports: list[Report] = []
    scenario, num_tasks = trial.job.scenario.kind, len(learner.stream)
    tell("submitted", name=trial.name, mapping=trial.job.mapping)
    try:
        with display(console, num_tasks) as shown:
            shown.line(f"{trial.name}: {scenario} on {learner.stream.name}, {num_tasks} tasks")
            for report in learner.learn():
                reports.append(asdict(report))
                tell("reported", report=reports[-1])
                _show_task(shown, reports[-1])
        learner.save_adapters(folder / "adapters")
    except BaseException as error:
        status = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
        tell(status, error=str(error))
        _write_result(trial, identity, reports, folder, status, str(error))
        raise
    tell("finished", artifacts=str(folder / "adapters"))
    return reports


def _show_task(shown: Display, report: Report) -> None:
    place = f"task {report['task'] + 1}/{report['num_tasks']} {report['task_name']}"
    seconds = report["metrics"]["cost/train_seconds"] + report["metrics"]["cost/evaluation_seconds"]
    shown.line(f"{place}{numbers(report['metrics'])} after {seconds:.1f} s")
    shown.count(report["task"] + 1)


def _show(
    trial: Trial, identity: str, reports: Sequence[Report], folder: Path, console: Console
) -> None:
    rows = [_write_result(trial, identity, reports, folder, "finished", None)]
    console.print(f"\nAccuracy on each task (test part, {trial.job.scenario.kind})")
    console.print(_matrix(reports))
    show_leaderboard(console, rows, trial.job.name)
    console.print(f"\n{folder}: the accuracy matrix, the adapters, {RESULT}", soft_wrap=True)
    show_mlflow(console, trial.job.output_dir, rows[0]["mlflow_uri"])


def _write_result(
    trial: Trial,
    identity: str,
    reports: Sequence[Report],
    folder: Path,
    status: str,
    error: str | None,
) -> dict[str, Any]:
    """Write what `lamina report` shows, and return it."""
    result = {
        "trial": identity,
        "name": trial.name,
        "settings": trial.settings,
        "mapping": trial.job.mapping,
        "status": status,
        "error": error,
        "reports": reports,
    }
    (row,) = leaderboard([result])
    (folder / RESULT).write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    return row


def _matrix(reports: Sequence[Report]) -> Table:
    """R of the test part: a row after each task, a column for each task."""
    names = [report["task_name"] for report in reports]
    table = Table(header_style="bold", box=None, pad_edge=False)
    table.add_column("after task")
    for name in names:
        table.add_column(name, justify="right")
    for name, report in zip(names, reports, strict=True):
        table.add_row(name, *("-" if each is None else f"{each:.3f}" for each in report["test"]))
    return table
