"""Reads an output folder: the leaderboard, and what each of its trials reported and left."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from operator import gt, lt
from pathlib import Path
from typing import Any

from lamina.core import Part
from lamina.evaluation import measures
from lamina.evaluation.drift import Correlation, drift_and_forgetting
from lamina.evaluation.leaderboard import Row, ranked
from lamina.evaluation.result_files import read_leaderboard, read_result
from lamina.evaluation.seeds import Group, groups_over_seeds
from lamina.files import checked_format, read_json
from lamina.folders import BUNDLE, EVENTS, LEADERBOARD, MATRIX, PREDICTIONS, RESULT, RUNS, TRIALS
from lamina.registry import InputError
from lamina.reporting.formatting import name_of
from lamina.tracking.matrix import FORMAT, Rows

SHOWN_PARTS: tuple[Part, ...] = ("test", "validation")
"""The parts that a matrix is of, the one that people ask for first."""


@dataclass(frozen=True)
class TrialResult:
    """A trial: its row of the leaderboard, and what else is known of it."""

    row: Row
    tasks: tuple[str, ...] = ()
    """The names of its stream's tasks; those not reached may have numbers."""
    matrices: Mapping[str, Rows] = field(default_factory=dict)
    """R of each part, [tasks, tasks]; empty where no task was learned."""
    metrics: Sequence[Mapping[str, float]] = ()
    """What it reported, after each task that it learned."""
    predictions: Path | None = None
    """Its answers to the test part, a row each: row, task, label, predicted."""

    @property
    def name(self) -> str:
        """What a person calls it."""
        return str(self.row["name"])

    def curve(self, key: str) -> list[float | None]:
        """A metric after each task; None where it is undefined."""
        return [metrics.get(key) for metrics in self.metrics]


@dataclass(frozen=True)
class Entry:
    """What a picture shows as one: a setting over its seeds, or a trial."""

    name: str
    strategy: str
    trials: Sequence[TrialResult]
    """Of a setting, those that learned every task, if there are any."""
    is_bound: bool
    """Whether it learned as one task what others learn as several."""


@dataclass(frozen=True)
class Standing:
    """How a trial stood after its last task, among all trials that got as far."""

    tasks: int
    score: float
    """Of the metric that ranks."""
    place: int
    """From 1."""
    of: int


@dataclass(frozen=True)
class Board:
    """Trials that are compared with each other, by rank."""

    name: str
    """The sweep's; of lone runs, the folder's."""
    trials: Sequence[TrialResult]
    scheduler: str | None = None
    """The name of what may stop a trial of the sweep."""

    @property
    def rows(self) -> list[Row]:
        """The leaderboard."""
        return [trial.row for trial in self.trials]

    @cached_property
    def groups(self) -> list[Group]:
        """The settings over their seeds, best first; none where the seed does not vary."""
        return groups_over_seeds(self.rows)

    @cached_property
    def drift(self) -> Correlation:
        """How drift goes with forgetting over trials that learned every task."""
        return drift_and_forgetting(row for row in self.rows if row["status"] == "finished")

    @cached_property
    def bounds(self) -> frozenset[str]:
        """The trials that learned as one task what others learn as several: joint training."""
        return bounds(self.rows)

    @cached_property
    def entries(self) -> list[Entry]:
        """The settings over their seeds where the seed varies, or the trials; best first."""
        of_trial = {trial.row["trial"]: trial for trial in self.trials}
        shown = [
            (name_of(group), [of_trial[row["trial"]] for row in group.finished or group.rows])
            for group in self.groups
        ] or [(trial.name, [trial]) for trial in self.trials]
        return [
            Entry(
                name,
                trials[0].row["strategy"],
                trials,
                is_bound=trials[0].row["trial"] in self.bounds,
            )
            for name, trials in shown
        ]

    def standing(self, trial: TrialResult) -> Standing | None:
        """How a trial stood when it ended, bounds left aside; None where its score is undefined."""
        metric, step = trial.row["metric"], len(trial.metrics) - 1
        own = trial.curve(metric)[step] if trial.metrics else None
        if own is None:
            return None
        curves = [
            each.curve(metric) for each in self.trials if each.row["trial"] not in self.bounds
        ]
        scores = [curve[step] for curve in curves if len(curve) > step]
        known = [score for score in scores if score is not None]
        is_better = gt if trial.row.get("mode", "max") == "max" else lt
        place = 1 + sum(is_better(score, own) for score in known)
        return Standing(step + 1, own, place, len(known))

    @cached_property
    def steps(self) -> Sequence[str]:
        """What the steps of a curve are called: the tasks, where all streams have the same ones in
        the same order, or numbers."""
        orders = {trial.tasks for trial in self.trials if trial.tasks}
        if len(orders) == 1:
            return orders.pop()
        return [f"task {step + 1}" for step in range(max(map(len, orders), default=0))]

    @property
    def measure(self) -> str:
        """What R is of, by its name: of trials that are compared, it is the same."""
        return str(self.rows[0].get("measure", "accuracy"))

    @property
    def words(self) -> str:
        """The same, as a person says it."""
        return words_of(self.rows[0])

    @property
    def title(self) -> str:
        """What its numbers are of."""
        return title_of(self.rows, self.name)


def bounds(rows: Sequence[Row]) -> frozenset[str]:
    """The ids of the trials that learned as one task what others learn as several. They are levels
    to hold the others against: they have nothing to forget, and no curve over tasks."""
    longest = max((row["num_tasks"] or 0 for row in rows), default=0)
    return frozenset(
        row["trial"]
        for row in rows
        if row["status"] == "finished" and row["tasks_done"] == 1 < longest
    )


def words_of(row: Row) -> str:
    """What a row is measured by, as a person says it."""
    return measures.words_of(row.get("measure", "accuracy"))


def title_of(rows: Sequence[Row], name: str) -> str:
    """What the numbers of a leaderboard are of: scenario, stream, tasks and backbone."""
    first = rows[0]
    scenarios = ", ".join(sorted({row["scenario"] for row in rows}))
    tasks = f", {first['num_tasks']} tasks" if first["num_tasks"] else ""
    return (
        f"{name}: {scenarios} on {first['stream']}{tasks}, {Path(first['backbone']).name}. "
        f"Average {words_of(first)} and forgetting are of the test part, trained counts "
        "parameters; "
        f"ranked by {first['metric']}."
    )


def output_dir_of(run: Path) -> Path:
    """The folder that RUN means: itself, or where the file is that it names."""
    return run.parent if run.is_file() else run


def results_in(output_dir: Path) -> tuple[list[Row], list[Row]]:
    """The rows of a sweep's leaderboard, and of lone runs. Raises InputError when there is none of
    either, or a file is damaged or of another version."""
    rows = read_leaderboard(output_dir, "RUN")
    lone = [read_result(folder, "RUN") for folder in _lone_runs(output_dir)]
    if not rows and not lone:
        raise no_results_in(output_dir)
    return rows, lone


def read_boards(run: Path) -> list[Board]:
    """What is in an output folder: the sweep's leaderboard, if there is one, then lone runs, those
    that learned from the same rows together. Raises InputError when there is nothing."""
    output_dir = output_dir_of(run)
    rows, lone = results_in(output_dir)
    boards = []
    if rows:
        tracked = _read_events(output_dir / EVENTS)
        trials = [_trial(row, output_dir / TRIALS / row["trial"], tracked) for row in rows]
        name = tracked.name or output_dir.name
        boards.append(Board(name, _named(trials), tracked.scheduler))
    # What learned from other rows is not to be compared.
    by_data: dict[Any, list[TrialResult]] = {}
    for row, folder in zip(lone, _lone_runs(output_dir), strict=True):
        trial = _trial(row, folder, _read_events(folder / EVENTS))
        by_data.setdefault(row.get("data"), []).append(trial)
    for data, those in by_data.items():
        name = f"{output_dir.name}, lone runs"
        of_data = name if len(by_data) == 1 else f"{name} on data {data}"
        boards.append(Board(of_data, _ranked(those)))
    return boards


def _lone_runs(output_dir: Path) -> list[Path]:
    """The folders of lone runs: each has one below the output folder; this may be one itself."""
    folders = [*sorted(output_dir.glob(f"{RUNS}/*")), output_dir]
    return [folder for folder in folders if (folder / RESULT).is_file()]


def no_results_in(run: Path) -> InputError:
    """That there is nothing to show in a folder, and which one may be meant."""
    folders = [str(path.parent) for path in Path("runs").glob(f"*/{LEADERBOARD}")]
    near = get_close_matches(str(run), folders, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    said = "holds no results" if run.exists() else "is not there"
    return InputError(
        f"RUN: {str(run)!r} {said}{hint} (allowed: the output_dir of a job that has run)"
    )


@dataclass
class _Tracked:
    """What a tracker wrote down."""

    name: str | None = None
    """The job's, of a sweep."""
    scheduler: str | None = None
    """The sweep's, by name."""
    metrics: dict[str, dict[int, Mapping[str, Any]]] = field(default_factory=dict)
    """By trial and step."""


def _trial(row: Row, folder: Path, tracked: _Tracked) -> TrialResult:
    path = folder / MATRIX
    document: Mapping[str, Any] = {"tasks": []}
    if path.is_file():
        document = checked_format(read_json(path, "RUN"), FORMAT, path, "RUN")
    steps = tracked.metrics.get(row["trial"], {})
    predictions = [
        path for path in (folder / PREDICTIONS, folder / BUNDLE / PREDICTIONS) if path.is_file()
    ]
    return TrialResult(
        row,
        tasks=tuple(document["tasks"]),
        matrices={part: document[part] for part in SHOWN_PARTS if part in document},
        metrics=[steps[step] for step in sorted(steps)],
        predictions=predictions[0] if predictions else None,
    )


def _ranked(trials: Sequence[TrialResult]) -> list[TrialResult]:
    """Lone runs, each of which was the first of its own leaderboard."""
    of_trial = {trial.row["trial"]: trial for trial in trials}
    rows = ranked(trial.row for trial in trials)
    return [replace(of_trial[row["trial"]], row=row) for row in rows]


def _named(trials: Sequence[TrialResult]) -> list[TrialResult]:
    """Trials with the names of all tasks, also of those that they did not report by name (joint
    training reports the last one only), where trials that did agree on them."""
    reported: dict[int, set[tuple[str, ...]]] = {}
    for trial in trials:
        if trial.row["tasks_done"] == len(trial.tasks):
            reported.setdefault(len(trial.tasks), set()).add(trial.tasks)
    names = {length: orders.pop() for length, orders in reported.items() if len(orders) == 1}
    return [replace(trial, tasks=names.get(len(trial.tasks), trial.tasks)) for trial in trials]


def _read_events(path: Path) -> _Tracked:
    """What was tracked. A trial that goes on from a checkpoint may log a step again: the later one
    counts, as the later name of a job that was started again does."""
    found = _Tracked()
    for event in _events(path):
        if event.get("event") == "start_sweep":
            found.name = event["name"]
            sweep = event["params"].get("sweep") or {}
            found.scheduler = (sweep.get("scheduler") or {}).get("name")
        elif event.get("event") == "log" and event.get("trial"):
            found.metrics.setdefault(event["trial"], {})[event["step"]] = event
    return found


def _events(path: Path) -> Iterator[Mapping[str, Any]]:
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            # The last line of a sweep that is running, or was killed, may be half written.
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                return
