"""`lamina run`: one trial in this process, without Ray."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

from lamina.backbones.backbone import Backbone
from lamina.backbones.load import load_backbone
from lamina.bundles import write_bundle
from lamina.cli.console import stdout
from lamina.cli.progress import display, learned
from lamina.cli.report import (
    notes_in_record,
    show_leaderboard,
    show_mlflow,
    show_notes,
    show_slow,
)
from lamina.cli.resuming import record_job
from lamina.config import (
    HostSettings,
    Job,
    Trial,
    build_learner,
    check_components,
    keep_features,
    load_job,
    lone_trial,
)
from lamina.config.identity import identified, learned_from, source_of
from lamina.config.reading import read_overrides
from lamina.config.unused import unused_by
from lamina.config.words import JobSource
from lamina.core import Samples, Stream
from lamina.digests import trial_id
from lamina.evaluation.leaderboard import Row, leaderboard
from lamina.evaluation.result_files import write_result
from lamina.files import held
from lamina.folders import BUNDLE, RESULT, RUNS
from lamina.orchestration.store.event_recorder import EventRecorder, TrialReports
from lamina.orchestration.store.kept_trial import KeptTrial, kept_trial
from lamina.registry import InputError
from lamina.reporting.results import words_of
from lamina.tracking.base import TrackingError
from lamina.tracking.data import data_document
from lamina.tracking.trackers import make_tracker
from lamina.training.learner import Learner

Report = dict[str, Any]


@dataclass(frozen=True)
class _Run:
    """One trial that is trained here, and where its files are."""

    trial: Trial
    identity: str
    folder: Path
    notes: Sequence[Mapping[str, Any]]
    """What looked like a mistake in its data."""

    def write_result(
        self, reports: Sequence[Report], status: str, error: str | None
    ) -> dict[str, Any]:
        """Write what `lamina report` shows, and return it."""
        result = {
            "trial": self.identity,
            "name": self.trial.name,
            "settings": self.trial.settings,
            "mapping": self.trial.job.mapping,
            "status": status,
            "error": error,
            # Nobody else can stop it.
            "hold": "stop",
            "reports": reports,
            "notes": self.notes,
        }
        (row,) = leaderboard([result])
        write_result(row, self.folder)
        return row


def run_job(source: JobSource, overrides: Sequence[str]) -> tuple[Path, Row]:
    """Train a job's own trial, its sweep left aside, and show what came out. Returns the job's
    output folder, and what `lamina report` shows of the trial.

    Everything is in `<output_dir>/run/<trial>/`: the accuracy matrix, the bundle, result.json and
    events.jsonl. The same trial has the same folder, and the same numbers. One that was killed goes
    on from its last task, and from its last place within one where the job keeps those.
    """
    console = stdout()
    job = load_job(source, overrides)
    if job.federation is not None:
        raise InputError(
            f"federation: {job.name!r} is for `lamina federate`, or for `lamina sweep` (allowed "
            "here: null, which trains one learner on all rows)"
        )
    trial = lone_trial(job, read_overrides(overrides))
    (raw,) = check_components([trial.job])
    learner = _learner(trial.job, raw)
    for key, why in unused_by(job, "run").items():
        console.print(f"{key} changes nothing: {why}", markup=False, soft_wrap=True)
    show_notes(console, [learner.stream])
    show_slow(console, [trial.job])
    trial = replace(trial, job=identified(trial.job, learned_from(trial.job, raw)))
    identity = trial_id(trial.job.mapping)
    folder = job.output_dir / RUNS / identity
    with held(job.output_dir / f".lock-{identity}", "output_dir", repr(str(folder))):
        if job.sweep is not None:
            learner.checkpoint_steps = job.sweep.checkpoint_steps
        with kept_trial(folder, identity, trial.name, trial.job.mapping) as kept:
            record_job(job, "run", overrides)
            row = _trained(source, learner, trial, identity, folder, kept, console)
        return job.output_dir, row


def _trained(
    source: JobSource,
    learner: Learner,
    trial: Trial,
    identity: str,
    folder: Path,
    kept: KeptTrial,
    console: Console,
) -> Row:
    """Train the trial in its folder, and show what came out."""
    job = trial.job
    tracker = make_tracker(
        job.output_dir,
        events=folder,
        enabled=job.tracking.enabled,
        uri=job.tracking.mlflow_uri,
        experiment=job.tracking.experiment or job.name,
        source=str(source) if isinstance(source, Path | str) else job.name,
        run=kept.run,
        measure=job.measure,
    )
    recorder = EventRecorder(tracker, folder.parent)
    run = _Run(trial, identity, folder, notes_in_record([learner.stream]))
    try:
        reports = _train(learner, run, kept, recorder, console)
    finally:
        try:
            recorder.close()
        except TrackingError as error:
            click.echo(f"tracking: {error}", err=True)
    return _show(run, reports, console)


def resident_backbone(job: Job) -> Backbone:
    """The backbone of a job in this process, as its `hosts` say. Raises InputError where the device
    is not there."""
    device = _device(job.hosts)
    torch.set_num_threads(job.hosts.threads)
    backbone = load_backbone(job.backbone, device)
    keep_features(backbone, job.hosts)
    return backbone


def _learner(job: Job, raw: Stream[Samples]) -> Learner:
    backbone = resident_backbone(job)
    return build_learner(job, backbone.encode_stream(raw), backbone)


def _device(hosts: HostSettings) -> torch.device:
    if hosts.device == "cuda" and not torch.cuda.is_available():
        raise InputError("hosts.device: 'cuda' is not there (allowed: auto, cpu)")
    on_gpu = hosts.device != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if on_gpu else "cpu")


def _train(
    learner: Learner, run: _Run, kept: KeptTrial, recorder: EventRecorder, console: Console
) -> list[Report]:
    """Learn every task that is left, keep it, and report it to recorder and display. Leaves no run
    open, come what may."""

    reports = kept.restore(learner)
    learner.on_checkpoint = partial(kept.keep_midway, learner)
    this = TrialReports(run.identity, run.trial.name, reports)

    def tell(event: str, **more: Any) -> None:
        recorder.record({"event": event, "trial": run.identity, **more}, [this])

    scenario, num_tasks = run.trial.job.scenario.kind, len(learner.stream)
    job = run.trial.job
    digest = (job.learned_from or {})["stream"]
    data = data_document(learner.stream, digest, source_of(job))
    tell("submitted", name=run.trial.name, mapping=job.mapping, data=data)
    for report in reports:
        tell("reported", report=report)
    try:
        with display(console, num_tasks) as shown:
            shown.line(f"{run.trial.name}: {scenario} on {learner.stream.name}, {num_tasks} tasks")
            for damage in kept.damages:
                shown.line(f"set back: {damage}")
            if reports or kept.is_midway:
                done = reports[-1]["task"] + 1 if reports else 0
                within = ", within the next" if kept.is_midway else ""
                shown.line(f"goes on after {done} of {num_tasks} tasks{within}")
                shown.count(done)
            for task in learner.learn():
                reports.append(asdict(task))
                kept.keep(reports[-1], learner)
                tell("reported", report=reports[-1])
                shown.line(learned(task))
                shown.count(task.task + 1)
        left = run.folder / BUNDLE
        write_bundle(run.trial.job, learner, left, name=run.trial.name, trial=run.identity)
    except BaseException as error:
        status = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
        tell(status, error=str(error))
        run.write_result(reports, status, str(error))
        raise
    tell("finished", artifacts=str(left))
    return reports


def _show(run: _Run, reports: Sequence[Report], console: Console) -> Row:
    rows = [run.write_result(reports, "finished", None)]
    words = words_of(rows[0])
    console.print(
        f"\n{words[0].upper()}{words[1:]} on each task (test part, {run.trial.job.scenario.kind})"
    )
    console.print(_matrix(reports))
    show_leaderboard(console, rows, run.trial.job.name)
    console.print(f"\n{run.folder}: the accuracy matrix, the bundle, {RESULT}", soft_wrap=True)
    show_mlflow(console, run.trial.job.output_dir, rows[0]["mlflow_uri"], rows[0]["experiment"])
    return rows[0]


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
