"""Tells a tracker what happened in the store: events become runs, metrics, matrices, pictures.

matplotlib is imported when something is drawn, and not while a sweep waits for its store to start.
"""

import json
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from lamina.evaluation.leaderboard import precedence, trainable_parameters
from lamina.orchestration.store.records import Report
from lamina.tracking.base import Tracker
from lamina.tracking.matrix import matrix_document


class TrialReports(NamedTuple):
    """A trial as the tracker needs it."""

    trial: str
    """Its id."""
    name: str
    """What a person calls it."""
    reports: Sequence[Report]
    """One for each task that it has learned."""


class EventRecorder:
    """Turns events of the store into calls of a tracker. Idempotent: events may be recorded
    again."""

    def __init__(self, tracker: Tracker, folder: Path) -> None:
        """`folder` is where each trial gets a folder for its files."""
        self._tracker = tracker
        self._folder = folder
        self._metric, self._mode = "validation/average_accuracy", "max"
        self._own: set[str] = set()
        """The trials that this sweep has asked for. A store has those of earlier sweeps as well."""

    def record(self, event: Mapping[str, Any], trials: Sequence[TrialReports]) -> None:
        """Record `event`; `trials` is its trial when that ends, and every trial of the store when
        the sweep does."""
        trial = event["trial"]
        match event["event"]:
            case "sweep_started":
                sweep = event["params"].get("sweep") or {}
                self._metric = sweep.get("metric", self._metric)
                self._mode = sweep.get("mode", self._mode)
                self._own.clear()
                self._tracker.start_sweep(event["name"], event["params"])
            case "known":
                self._own.add(trial)
            case "submitted":
                self._own.add(trial)
                self._tracker.start_trial(trial, event["mapping"], event["name"])
            case "reported":
                report = event["report"]
                self._tracker.log(trial, metrics_of(report), step=report["task"])
            case "finished" | "failed" | "stopped" as status:
                for _, name, reports in trials:
                    draws = self._tracker.shows_pictures
                    for path in write_matrix(self._folder / trial, reports, name, draws):
                        self._tracker.artifact(trial, path)
                if left := event.get("artifacts"):
                    self._tracker.artifact(trial, Path(left), folder=Path(left).name)
                self._tracker.finish_trial(trial, status)
            case "sweep_finished":
                own = [each for each in trials if each.trial in self._own]
                for path in write_curves(self._folder.parent, own):
                    self._tracker.artifact(None, path)
                self._tracker.log(None, best_of(own, self._metric, self._mode), step=0)
                self._tracker.finish_sweep(event["status"])

    def close(self) -> None:
        """Return when everything is written. Raises TrackingError."""
        self._tracker.close()


def metrics_of(report: Report) -> dict[str, float]:
    """What is tracked of a report: its metrics and the accuracy on each task, as far as they are
    defined."""
    accuracies = {
        f"{part}/accuracy_task_{task:02d}": value
        for part in ("validation", "test")
        for task, value in enumerate(report[part])
        if value is not None
    }
    return {**report["metrics"], **accuracies}


def write_matrix(folder: Path, reports: Sequence[Report], name: str, draws: bool) -> list[Path]:
    """The accuracy matrix of a trial as JSON and, if it `draws`, pictures, in `folder`; nothing if
    it learned no task."""
    if not reports:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    num_tasks = reports[-1]["num_tasks"]
    # Joint training reports once, after the last task: rows go by task, not by report.
    at = {each["task"]: each for each in reports}
    tasks = [at[t]["task_name"] if t in at else f"task {t + 1}" for t in range(num_tasks)]
    rows: dict[str, list[Sequence[float | None]]] = {
        part: [at[t][part] if t in at else [] for t in range(max(at) + 1)]
        for part in ("validation", "test")
    }
    paths = [folder / "accuracy_matrix.json"]
    document = matrix_document(tasks, rows["validation"], rows["test"])
    paths[0].write_text(json.dumps(document, indent=1), encoding="utf-8")
    if not draws:
        return paths
    from lamina.tracking.plots import draw_matrix

    for part, accuracy in rows.items():
        paths.append(folder / f"accuracy_matrix_{part}.png")
        draw_matrix(paths[-1], tasks=tasks, accuracy=accuracy, part=part, name=name)
    return paths


def write_curves(folder: Path, trials: Sequence[TrialReports]) -> list[Path]:
    """The average accuracy of every trial over its tasks as pictures in `folder`, if there are two
    trials at least that learned something."""
    learned = [(name, reports) for _, name, reports in trials if reports]
    if len(learned) < 2:
        return []
    from lamina.tracking.plots import Curve, draw_curves

    longest = max((reports for _, reports in learned), key=len)
    paths = []
    for part in ("validation", "test"):
        key = f"{part}/average_accuracy"
        curves = {
            name: Curve(
                [report["metrics"][key] for report in reports if key in report["metrics"]],
                reports[-1]["num_tasks"] - reports[0]["task"],
            )
            for name, reports in learned
        }
        paths.append(folder / f"average_accuracy_{part}.png")
        tasks = [report["task_name"] for report in longest]
        draw_curves(paths[-1], tasks=tasks, curves=curves, part=part, name=folder.name)
    return paths


def best_of(
    trials: Sequence[TrialReports], metric: str = "validation/average_accuracy", mode: str = "max"
) -> dict[str, float]:
    """The sweep's own metrics: how many of its trials learned every task, and the average accuracy
    of the one that ranks first among them. The test part chooses nothing: what is said of it is of
    the trial that `metric`, of the validation part, has chosen."""
    ended = [each for each in trials if each.reports and each.reports[-1]["done"]]
    found = {"sweep/finished_trials": float(len(ended))}
    if ended:
        best = min(ended, key=lambda each: _precedence(each, metric, mode))
        for part in ("validation", "test"):
            value = best.reports[-1]["metrics"].get(f"{part}/average_accuracy")
            if value is not None:
                found[f"sweep/best_{part}_average_accuracy"] = value
    return found


def _precedence(each: TrialReports, metric: str, mode: str) -> tuple[Any, ...]:
    score = each.reports[-1]["metrics"].get(metric)
    score = score if score is not None and isfinite(score) else None
    return precedence(score, mode, trainable_parameters(each.reports), each.name, each.trial)
