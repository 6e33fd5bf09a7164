"""Tells a tracker what happened in the store: events become runs, metrics, matrices, pictures.

matplotlib is imported when something is drawn, and not while a sweep waits for its store to start.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from lamina.digests import LEARNED_FROM
from lamina.evaluation.leaderboard import precedence, trainable_parameters
from lamina.evaluation.measures import better_of, measure_in, named
from lamina.files import write_file, write_json
from lamina.folders import BUNDLE, ERROR, MATRIX
from lamina.orchestration.store.records import Report
from lamina.tracking import descriptions
from lamina.tracking.base import Tracker
from lamina.tracking.data import DataDocument
from lamina.tracking.matrix import matrix_document
from lamina.tracking.model import tracked_model

DRAWN = 3
"""The number of best trials of a sweep whose matrices are drawn: two pictures take longer than a
small task. `lamina report` shows the matrix of any trial."""


class TrialReports(NamedTuple):
    """The reports of a trial, for the tracker."""

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
        self._metric: str | None = None
        self._mode: str | None = None
        self._is_sweep = False
        self._own: set[str] = set()
        """The trials that this sweep has asked for. A store has those of earlier sweeps as well."""
        self._data: dict[str, DataDocument] = {}
        """The data that the trials learn from, by digest."""

    @property
    def pending(self) -> int:
        """How many calls the tracker has been given and not written yet."""
        return self._tracker.pending

    def record(self, event: Mapping[str, Any], trials: Sequence[TrialReports]) -> None:
        """Record `event`; `trials` is its trial when that ends, and every trial of the store when
        the sweep does."""
        trial = event["trial"]
        match event["event"]:
            case "sweep_started":
                sweep = event["params"].get("sweep") or {}
                self._metric = sweep.get("metric", self._metric)
                self._mode = sweep.get("mode", self._mode)
                self._is_sweep = True
                self._own.clear()
                self._start_sweep(event)
            case "known":
                self._own.add(trial)
            case "submitted":
                self._own.add(trial)
                self._start_trial(event)
            case "reported":
                report = event["report"]
                self._tracker.log(trial, metrics_of(report), step=report["task"])
            case "finished" | "failed" | "stopped" as status:
                if status == "failed":
                    write_error(self._folder / trial, event["error"])
                # Those of a sweep wait until it is known which are the best.
                draws = self._tracker.shows_pictures and not self._is_sweep
                for _, name, reports in trials:
                    for path in write_matrix(self._folder / trial, reports, name, draws):
                        self._tracker.artifact(trial, path)
                if left := event.get("artifacts"):
                    self._tracker.artifact(trial, Path(left), folder=Path(left).name)
                self._tracker.finish_trial(trial, status)
            case "sweep_finished":
                self._end_sweep([each for each in trials if each.trial in self._own])
                self._tracker.finish_sweep(event["status"])

    def _start_sweep(self, event: Mapping[str, Any]) -> None:
        data: Sequence[DataDocument] = event.get("data") or ()
        self._data = {each["digest"]: each for each in data}
        self._tracker.start_sweep(
            event["name"], event["params"], descriptions.of_sweep(event["name"], data)
        )
        for each in data:
            self._tracker.data(None, each)
        if data:
            self._tracker.artifact(None, write_classes(self._folder.parent, data))

    def _start_trial(self, event: Mapping[str, Any]) -> None:
        trial, job = event["trial"], event["mapping"]
        digest = (job.get(LEARNED_FROM) or {}).get("stream", "")
        data: DataDocument | None = event.get("data") or self._data.get(digest)
        about = descriptions.of_trial(job, data)
        self._tracker.start_trial(trial, job, event["name"], about)
        if data is not None:
            self._tracker.data(trial, data)

    def _end_sweep(self, trials: Sequence[TrialReports]) -> None:
        """Pictures of the best trials and of all side by side, the best one's numbers and model."""
        for path in write_curves(self._folder.parent, trials):
            self._tracker.artifact(None, path)
        ranked = ranking(trials, self._metric, self._mode)
        for trial, name, reports in ranked[:DRAWN] if self._tracker.shows_pictures else ():
            _, *pictures = write_matrix(self._folder / trial, reports, name, draws=True)
            for path in pictures:
                self._tracker.artifact(trial, path)
        self._tracker.log(None, best_of(trials, self._metric, self._mode), step=0)
        bundle = self._folder / ranked[0].trial / BUNDLE if ranked else None
        if bundle is not None and (bundle / "bundle.json").is_file():
            self._tracker.model(tracked_model(bundle))

    def close(self) -> None:
        """Return when everything is written. Raises TrackingError."""
        self._tracker.close()


def metrics_of(report: Report) -> dict[str, float]:
    """The metrics of a report that are tracked: its own, and the measure on each task, as far as
    they are defined."""
    measure = measure_in(report["metrics"])
    accuracies = {
        f"{part}/{measure}_task_{task:02d}": value
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
    measure = measure_in(reports[-1]["metrics"])
    paths = [folder / MATRIX]
    document = matrix_document(tasks, rows["validation"], rows["test"])
    write_json(paths[0], document)
    if not draws:
        return paths
    from lamina.tracking.plots import draw_matrix

    for part, cells in rows.items():
        paths.append(folder / named(f"accuracy_matrix_{part}.png", measure))
        draw_matrix(paths[-1], tasks=tasks, cells=cells, part=part, name=name, measure=measure)
    return paths


def write_error(folder: Path, error: str) -> None:
    """Why a trial failed, as text in `folder`: all of the traceback."""
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / ERROR, error.rstrip() + "\n")


def write_classes(folder: Path, data: Sequence[DataDocument]) -> Path:
    """The names of all tasks and classes as JSON in `folder`, by stream."""
    path = folder / "classes.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    named = [
        {
            "stream": each["name"],
            "digest": each["digest"],
            "tasks": [{key: task[key] for key in ("name", "classes")} for task in each["tasks"]],
        }
        for each in data
    ]
    write_json(path, named)
    return path


def write_curves(folder: Path, trials: Sequence[TrialReports]) -> list[Path]:
    """The average accuracy of every trial over its tasks as pictures in `folder`, if there are two
    trials at least that learned something."""
    learned = [(name, reports) for _, name, reports in trials if reports]
    if len(learned) < 2:
        return []
    from lamina.tracking.plots import Curve, draw_curves

    longest = max((reports for _, reports in learned), key=len)
    measure = measure_in(longest[-1]["metrics"])
    paths = []
    for part in ("validation", "test"):
        key = named(f"{part}/average_accuracy", measure)
        curves = {
            name: Curve(
                [report["metrics"][key] for report in reports if key in report["metrics"]],
                reports[-1]["num_tasks"] - reports[0]["task"],
            )
            for name, reports in learned
        }
        paths.append(folder / named(f"average_accuracy_{part}.png", measure))
        tasks = [report["task_name"] for report in longest]
        draw_curves(
            paths[-1], tasks=tasks, curves=curves, part=part, name=folder.name, measure=measure
        )
    return paths


def ranking(
    trials: Sequence[TrialReports], metric: str | None, mode: str | None
) -> list[TrialReports]:
    """Those that learned every task, the best first, as on the leaderboard."""
    ended = [each for each in trials if each.reports and each.reports[-1]["done"]]
    if not ended:
        return []
    measure = measure_in(ended[0].reports[-1]["metrics"])
    by = metric or named("validation/average_accuracy", measure)
    best = mode or better_of(measure)
    return sorted(ended, key=lambda each: _precedence(each, by, best))


def best_of(
    trials: Sequence[TrialReports], metric: str | None = None, mode: str | None = None
) -> dict[str, float]:
    """The sweep's own metrics: how many of its trials learned every task, and the average accuracy
    of the one that ranks first among them. The test part chooses nothing: what is said of it is of
    the trial that `metric`, of the validation part, has chosen."""
    ended = ranking(trials, metric, mode)
    found = {"sweep/finished_trials": float(len(ended))}
    if ended:
        best = ended[0]
        measure = measure_in(best.reports[-1]["metrics"])
        for part in ("validation", "test"):
            value = best.reports[-1]["metrics"].get(named(f"{part}/average_accuracy", measure))
            if value is not None:
                found[named(f"sweep/best_{part}_average_accuracy", measure)] = value
    return found


def _precedence(each: TrialReports, metric: str, mode: str) -> tuple[Any, ...]:
    score = each.reports[-1]["metrics"].get(metric)
    score = score if score is not None and isfinite(score) else None
    return precedence(score, mode, trainable_parameters(each.reports), each.name, each.trial)
