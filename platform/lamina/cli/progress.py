"""How far a run or a sweep is: a bar with the time left on a terminal, plain lines in a log."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lamina.evaluation.measures import measure_in, named

if TYPE_CHECKING:
    from lamina.training.report import TaskReport

_NAMED = 8
"""So many trials are named in one line."""


class Display:
    """Lines that stay, and below them on a terminal one bar that counts learned tasks."""

    def __init__(self, console: Console, progress: Progress | None, num_tasks: int) -> None:
        self._console = console
        self._progress = progress
        self._bar = progress.add_task("tasks", total=num_tasks) if progress else None

    def line(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, soft_wrap=True, markup=False)

    def count(self, num_tasks: int) -> None:
        """So many tasks are learned, or will not be."""
        if self._progress is not None and self._bar is not None:
            self._progress.update(self._bar, completed=num_tasks)


@contextmanager
def display(console: Console, num_tasks: int) -> Iterator[Display]:
    """A display for `num_tasks` tasks, over all trials together."""
    if not console.is_terminal:
        yield Display(console, None, num_tasks)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield Display(console, progress, num_tasks)


@dataclass
class _Trial:
    """What is known of a trial."""

    name: str
    num_tasks: int
    learned: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    ended: bool = False


class SweepProgress:
    """Tells a display what a sweep says of itself (the events of `run_sweep`)."""

    def __init__(self, shown: Display, num_trials: int, num_tasks: int) -> None:
        """`num_tasks` of one trial, as long as it has not said so itself."""
        self._display = shown
        self._num_trials = num_trials
        self._num_tasks = num_tasks
        self._trials: dict[str, _Trial] = {}
        self.num_refuted = 0
        """Trials that were trained again alone and came out otherwise."""

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Show what happened."""
        match event:
            case {"event": "host_ready", "host": host, "where": where}:
                self._display.line(f"{host} is ready on {where}")
            case {"event": "host_lost", "host": host, "error": error}:
                self._display.line(f"{host} is lost: {error}")
            case {"event": "host_missing", "host": host, "needs": needs}:
                self._display.line(f"{host} waits for {needs}")
            case {"event": "store_silent", "seconds": seconds}:
                self._display.line(
                    f"the store does not answer for {seconds:.0f} s: it is started again"
                )
            case {"event": "renewed", "names": names, "why": why}:
                shown = names if len(names) <= _NAMED else [*names[:_NAMED], "..."]
                number = "1 trial is" if len(names) == 1 else f"{len(names)} trials are"
                self._display.line(f"{number} trained again, as {why}: {', '.join(shown)}")
            case {"event": "set_back", "trial": trial, "damage": damage, "task": task}:
                where = f"after task {task + 1}" if task >= 0 else "at its beginning"
                name = self._trials[trial].name
                self._display.line(f"{damage}: {name} goes on {where}")
            case {"event": "tracking_behind", "number": number}:
                self._display.line(f"all is learned; MLflow is told of the last {number} events")
            case {"event": "tracking_incomplete", "error": error}:
                self._display.line(f"tracking: {error}")
            case {"event": "submitted", "trial": trial, "name": name}:
                self._trials.setdefault(trial, _Trial(name, self._num_tasks)).ended = False
            case {"event": "known", "trial": trial, "name": name, "reports": reports}:
                metrics = reports[-1]["metrics"] if reports else {}
                self._trials[trial] = _Trial(name, len(reports), len(reports), metrics)
                self._end(trial, "was finished before")
            case {"event": "reported", "trial": trial, "report": report}:
                known = self._trials[trial]
                known.learned, known.num_tasks = report["task"] + 1, report["num_tasks"]
                known.metrics = report["metrics"]
            case {"event": "asked", "action": action, "subject": trial}:
                words = {"stop": "is to stop", "pause": "is to pause", "resume": "is to go on"}
                self._display.line(f"{self._trials[trial].name} {words[action]}")
            case {"event": "verified", "name": name, "difference": difference}:
                held = "is what it is alone" if event["holds"] else "IS NOT what it is alone"
                same = "the same" if event["same_matrices"] else "another"
                self.num_refuted += not event["holds"]
                self._display.line(f"{name} {held}: {same} R, parameters within {difference:.1e}")
            case {"event": "finished", "trial": trial}:
                self._end(trial, "finished")
            case {"event": "stopped", "trial": trial}:
                known = self._trials[trial]
                self._end(trial, f"stopped after {known.learned} of {known.num_tasks} tasks")
            case {"event": "failed", "trial": trial, "error": error}:
                self._end(trial, f"failed: {str(error).strip().splitlines()[-1]}")
        trials = self._trials.values()
        self._display.count(sum(each.num_tasks if each.ended else each.learned for each in trials))

    def _end(self, trial: str, how: str) -> None:
        known = self._trials[trial]
        known.ended = True
        num_ended = sum(each.ended for each in self._trials.values())
        # Forks come on top of what was planned.
        total = max(self._num_trials, len(self._trials))
        counter = f"[{num_ended:>{len(str(total))}}/{total}]"
        self._display.line(f"{counter} {known.name} {how}{numbers(known.metrics)}")


def learned(report: "TaskReport") -> str:
    """A task of the one trial that runs, in a line."""
    metrics = report.metrics
    seconds = metrics["cost/train_seconds"] + metrics["cost/evaluation_seconds"]
    where = f"task {report.task + 1}/{report.num_tasks} {report.task_name}"
    return f"{where}{numbers(metrics)} after {seconds:.1f} s"


def numbers(metrics: Mapping[str, float]) -> str:
    """The numbers of a trial that a person waits for, as the end of a line."""
    measure = measure_in(metrics)
    words = {
        named("validation/average_accuracy", measure): "validation",
        named("test/average_accuracy", measure): "test",
        "test/forgetting": "forgetting",
    }
    found = [f"{word} {metrics[key]:.3f}" for key, word in words.items() if key in metrics]
    return f": {', '.join(found)}" if found else ""
