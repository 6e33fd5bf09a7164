"""Tells a tracker what happened in the store: events become runs, metrics, matrices, pictures.

matplotlib is imported when something is drawn, and not while a sweep waits for its store to start.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lamina.orchestration.store.shared_store import Report
from lamina.tracking.base import Tracker
from lamina.tracking.matrix import matrix_document

Told = tuple[str, Sequence[Report]]
"""What a person calls a trial, and its reports."""


class EventRecorder:
    """Turns events of the store into calls of a tracker. To be told everything twice does no
    harm."""

    def __init__(self, tracker: Tracker, folder: Path) -> None:
        """`folder` is where each trial gets a folder for its files."""
        self._tracker = tracker
        self._folder = folder

    def record(self, event: Mapping[str, Any], told: Sequence[Told]) -> None:
        """Take down `event`; `told` is its trial when that ends, and every trial when the sweep
        does."""
        trial = event["trial"]
        match event["event"]:
            case "sweep_started":
                self._tracker.start_sweep(event["name"], event["params"])
            case "submitted":
                self._tracker.start_trial(trial, event["mapping"], event["name"])
            case "reported":
                report = event["report"]
                self._tracker.log(trial, metrics_of(report), step=report["task"])
            case "finished" | "failed" | "stopped" as status:
                for name, reports in told:
                    draws = self._tracker.shows_pictures
                    for path in write_matrix(self._folder / trial, reports, name, draws):
                        self._tracker.artifact(trial, path)
                if adapters := event.get("artifacts"):
                    self._tracker.artifact(trial, Path(adapters), folder="adapters")
                self._tracker.finish_trial(trial, status)
            case "sweep_finished":
                for path in write_curves(self._folder.parent, told):
                    self._tracker.artifact(None, path)
                self._tracker.log(None, best_of(told), step=0)
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
    learned = [each["task_name"] for each in reports]
    tasks = [
        *learned,
        *(f"task {each + 1}" for each in range(len(learned), reports[-1]["num_tasks"])),
    ]
    rows = {part: [each[part] for each in reports] for part in ("validation", "test")}
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


def write_curves(folder: Path, told: Sequence[Told]) -> list[Path]:
    """The average accuracy of every trial over its tasks as pictures in `folder`, if there are two
    trials at least that learned something."""
    learned = [(name, reports) for name, reports in told if reports]
    if len(learned) < 2:
        return []
    from lamina.tracking.plots import draw_curves

    longest = max((reports for _, reports in learned), key=len)
    paths = []
    for part in ("validation", "test"):
        key = f"{part}/average_accuracy"
        curves = {
            name: [report["metrics"][key] for report in reports if key in report["metrics"]]
            for name, reports in learned
        }
        paths.append(folder / f"average_accuracy_{part}.png")
        tasks = [report["task_name"] for report in longest]
        draw_curves(paths[-1], tasks=tasks, curves=curves, part=part, name=folder.name)
    return paths


def best_of(told: Sequence[Told]) -> dict[str, float]:
    """The sweep's own metrics: its trials that learned every task, and the best average accuracy
    among them."""
    ended = [reports[-1]["metrics"] for _, reports in told if reports and reports[-1]["done"]]
    found = {"sweep/finished_trials": float(len(ended))}
    for part in ("validation", "test"):
        values = [each[f"{part}/average_accuracy"] for each in ended]
        if values:
            found[f"sweep/best_{part}_average_accuracy"] = max(values)
    return found
