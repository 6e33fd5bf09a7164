"""`lamina sweep`: every trial of a job's sweep on Ray, then the leaderboard."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from lamina.cli.console import stdout
from lamina.cli.plan import show_outcome, show_plan
from lamina.cli.progress import SweepProgress, display
from lamina.cli.report import (
    notes_in_record,
    show_files,
    show_leaderboard,
    show_mlflow,
    show_notes,
    show_slow,
)
from lamina.cli.resuming import record_job, say_what_is_there
from lamina.config import Job, SweepPlan, SweepSettings, check_components, expand, load_job
from lamina.config.words import JobSource
from lamina.core import Samples, Stream
from lamina.evaluation.leaderboard import Row, leaderboard
from lamina.evaluation.result_files import write_leaderboard
from lamina.folders import TRIALS


@dataclass(frozen=True)
class Swept:
    """What a sweep gave."""

    output_dir: Path
    rows: list[Row]
    """The leaderboard."""
    num_refuted: int
    """Trials that were trained again alone and came out otherwise."""

    def raise_for_failures(self) -> None:
        """Raises ClickException, which ends a command with 1, where a trial has failed."""
        if self.num_refuted:
            raise click.ClickException(
                f"{self.num_refuted} trials are not what they are alone: see the lines above"
            )
        if num_failed := sum(row["status"] == "failed" for row in self.rows):
            raise click.ClickException(f"{num_failed} of {len(self.rows)} trials failed")


def plan_job(source: JobSource, overrides: Sequence[str]) -> None:
    """Show what a sweep would do and cost."""
    console = stdout()
    plan, streams = _checked(load_job(source, overrides), console)
    show_plan(console, plan, streams)


def sweep_job(source: JobSource, overrides: Sequence[str]) -> Swept:
    """Train, rank, write leaderboard.json and show it."""
    console = stdout()
    job = load_job(source, overrides)
    plan, streams = _checked(job, console)
    # Only a job that is sound is worth the seconds that Ray takes to be imported and started.
    from lamina.orchestration.sweep.run import run_sweep

    say_what_is_there(console, job.output_dir)
    lengths = [len(stream) for stream in streams]
    draws = [plan.num_draws(point) for point in plan.points]
    total = sum(length * number for length, number in zip(lengths, draws, strict=True))
    console.print(f"{job.name}: {plan.num_trials} trials, {job.scenario.kind} on {job.stream.name}")
    # The sweep lets go of the streams as it hands them to the hosts.
    notes = _notes_by_trial([point.trial.job for point in plan.points], streams)
    with display(console, total) as shown:
        progress = SweepProgress(shown, plan.num_trials, max(lengths))

        def tell(event: Mapping[str, Any]) -> None:
            if event["event"] == "sweep_started":
                record_job(job, "sweep", overrides)
            progress(event)

        results = run_sweep(job, tell, streams)
    settings = job.sweep or SweepSettings()
    results = [{**each, "notes": notes(each["mapping"])} for each in results]
    rows = leaderboard(results, settings.metric, settings.mode)
    write_leaderboard(rows, job.output_dir)
    show_leaderboard(console, rows, job.name, job.output_dir / TRIALS)
    show_files(console, job.output_dir)
    console.print(f"lamina report {job.output_dir}: a page of all this", soft_wrap=True)
    show_mlflow(console, job.output_dir, rows[0]["mlflow_uri"], rows[0]["experiment"])
    show_outcome(console, job.output_dir, results)
    return Swept(job.output_dir, rows, progress.num_refuted)


def _checked(job: Job, console: Console) -> tuple[SweepPlan, list[Stream[Samples]]]:
    """A sweep's plan and the stream of each of its points, and what is to be said of them."""
    plan = expand(job)
    streams = check_components(point.trial.job for point in plan.points)
    for note in plan.notes:
        console.print(note, markup=False, soft_wrap=True)
    show_notes(console, streams)
    show_slow(console, [point.trial.job for point in plan.points])
    return plan, streams


def _notes_by_trial(
    jobs: Sequence[Job], streams: Sequence[Stream[Samples]]
) -> Callable[[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Gives the notes of a trial's stream by the trial's mapping; those of all streams where it
    draws its own."""

    def key(mapping: Mapping[str, Any]) -> str:
        return repr([mapping.get(section) for section in ("stream", "scenario", "backbone")])

    known: dict[str, list[Stream[Samples]]] = {}
    for job, stream in zip(jobs, streams, strict=True):
        known.setdefault(key(job.mapping), []).append(stream)
    everything = [*streams]
    return lambda mapping: notes_in_record(known.get(key(mapping), everything))
