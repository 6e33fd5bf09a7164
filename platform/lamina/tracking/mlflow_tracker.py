"""A tracker that writes to MLflow: a run per sweep, a child run per trial.

The only file that imports mlflow, and not before its one daemon thread runs: importing it takes
2 s and creating a database 5 s, and no caller waits for either. mlflow/README.md is for the people
who look at the runs.
"""

import logging
import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from getpass import getuser
from itertools import count
from json import dumps
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten
from threading import Event, Thread
from time import time
from typing import TYPE_CHECKING, TypeAlias

from lamina.tracking.backlog import Backlog, Point, Points
from lamina.tracking.base import Status, TrackingError
from lamina.tracking.data import DataDocument
from lamina.tracking.mlflow_store import embedded_uri, tidy_after_opening
from lamina.tracking.mlflow_views import leaderboard_link, saved_views
from lamina.tracking.model import LOADER, TrackedModel

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

_log = logging.getLogger(__name__)

METRICS_PER_CALL = 1000
PARAMS_PER_CALL = 100
LONGEST_PARAM = 6000
"""Three limits of MLflow (mlflow.utils.validation)."""

TRIES = 3
"""Failures of one event after which we ask who is at fault, the store or the event."""
LONGEST_WAIT = 10.0
"""Seconds between two tries, at most."""

MODEL = "model"
"""What the best bundle of a sweep is called: `runs:/RUN/model`."""
CANDIDATE = "candidate"
"""The alias of the newest version of a registered model. Nothing promotes itself any further."""

_STATUSES: Mapping[Status, str] = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
_RUN_TAG = "lamina.run"
_TRIAL_TAG = "lamina.trial"
_SWEEP = ""
"""The label of the sweep's own run, which has no `lamina.trial` tag."""
_EXPERIMENT_NOTE = (
    "Sweeps by Lamina: [leaderboard of their trials]({leaderboard}). The menu *Views* on the right "
    "has it too."
)
_MODEL_NOTE = (
    "Adapters on a frozen backbone, found by a sweep of Lamina. The alias `candidate` is the best "
    "trial of the last sweep; who has looked at it may give it another one."
)
_METRICS_NOTE = (
    "A metric has one value per task of the stream: step 0 is what the first task left behind. "
    "`validation/` metrics choose and rank; `test/` metrics are only reported."
)


class MlflowTracker:
    """Runs in an MLflow store, written by a thread of their own.

    A tracker with the same `run` key on the same store goes on with the runs of the earlier one:
    it finds and reopens them, and skips a metric that has a value at that step already. A sweep
    that goes on after a crash may simply say everything again.

    When the store cannot be written, training does not notice. While it does not answer, events
    wait in memory and are tried again every few seconds as long as the tracker is open, and for
    `patience` seconds in `close`. An event that is refused by a store that does answer is left out.
    Either is said by a warning at once, and by the TrackingError that `close` raises in the end.
    """

    shows_pictures = True

    def __init__(
        self,
        output_dir: Path,
        *,
        run: str,
        experiment: str,
        uri: str | None = None,
        source: str = "lamina",
        register: str | None = None,
        system_metrics: bool = False,
        patience: float = 60.0,
        measure: str = "accuracy",
    ) -> None:
        """Start to connect.

        Args:
            output_dir: The job's; the embedded store is in it, and is used if `uri` is None.
            run: The lasting key of this sweep or lone trial: unique in the store, without quotes.
            experiment: The name of MLflow's experiment.
            source: What made the runs, as a person reads it: the job file.
            register: The name under which the sweep's model is registered; None: it is not.
            system_metrics: Whether the load of this machine is recorded with the sweep's run.
            patience: Seconds that `close` waits for a store that does not answer.
            measure: What R is of, whose columns a new experiment shows.
        """
        output_dir = output_dir.resolve()
        output_dir.mkdir(parents=True, exist_ok=True)
        self._uri = uri or embedded_uri(output_dir)
        # A URL, as MLflow cuts a path off at `?` and `#`.
        artifacts = None if uri else (output_dir / "mlartifacts").as_uri()
        views = saved_views(measure, _milliseconds())
        self._connect = lambda: _Runs.connect(self._uri, artifacts, experiment, run, source, views)
        self._tidy = lambda: None if uri else tidy_after_opening(output_dir)
        self._register = register
        self._has_system_metrics = system_metrics
        self._patience = patience
        self._backlog: Backlog[_Action] = Backlog()
        self._give_up = Event()
        self._failure: str | None = None
        self._written = 0
        self._lost: list[str] = []
        self._copies = TemporaryDirectory(prefix="lamina-artifacts-")
        self._copy_numbers = count()
        self._closed = False
        self._writer = Thread(target=self._write, name="mlflow-writer", daemon=True)
        self._writer.start()

    @property
    def pending(self) -> int:
        return len(self._backlog)

    def start_sweep(self, name: str, params: Mapping[str, object], about: str = "") -> None:
        now = _milliseconds()
        flat = dict(flatten(params))
        note = _note(about or f"Sweep **{name}**.")
        self._backlog.put_action(None, lambda runs: runs.start(None, name, flat, note, now))
        if self._has_system_metrics:
            self._backlog.put_action(None, lambda runs: runs.watch_machine(self._uri))

    def start_trial(
        self, trial: str, params: Mapping[str, object], name: str, about: str = ""
    ) -> None:
        now = _milliseconds()
        flat = dict(flatten(params))
        note = _note(about or f"Trial `{trial}`.")
        self._backlog.put_action(trial, lambda runs: runs.start(trial, name, flat, note, now))

    def data(self, trial: str | None, data: DataDocument) -> None:
        self._backlog.put_action(trial, lambda runs: runs.data(trial, data))

    def log(self, trial: str | None, metrics: Mapping[str, float], step: int) -> None:
        now = _milliseconds()
        points = [Point(_key(key), value, now, step) for key, value in metrics.items()]
        self._backlog.put_points(trial, points)

    def artifact(self, trial: str | None, path: Path, folder: str = "") -> None:
        copy = Path(self._copies.name) / str(next(self._copy_numbers)) / path.name
        copy.parent.mkdir()
        if path.is_dir():
            shutil.copytree(path, copy)
        else:
            shutil.copyfile(path, copy)
        self._backlog.put_action(trial, lambda runs: runs.artifact(trial, copy, folder))

    def model(self, model: TrackedModel) -> None:
        self._backlog.put_action(None, lambda runs: runs.model(model, self._register))

    def finish_trial(self, trial: str, status: Status) -> None:
        now = _milliseconds()
        self._backlog.put_action(trial, lambda runs: runs.finish(trial, status, now))

    def finish_sweep(self, status: Status) -> None:
        now = _milliseconds()
        self._backlog.put_action(None, lambda runs: runs.finish_sweep(status, now))

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        now = _milliseconds()
        self._backlog.put_action(None, lambda runs: runs.finish_rest(now))
        self._backlog.close()
        while self._writer.is_alive():
            written = self._written
            self._writer.join(self._patience)
            if self._failure and self._written == written:
                self._give_up.set()
                self._lost.append(f"the last {len(self._backlog) + 1} events ({self._failure})")
                break
        self._copies.cleanup()
        if self._lost:
            missing = "; ".join(self._lost)
            raise TrackingError(f"tracking.mlflow_uri: {self._uri} is incomplete: {missing}")

    def _write(self) -> None:
        """What the writer thread does."""
        runs: _Runs | None = None
        while (item := self._backlog.take()) is not None:
            for attempt in count(1):
                try:
                    if runs is None:
                        runs = self._connect()
                        self._tidy()
                    runs.do(item)
                    break
                except Exception as error:
                    if attempt >= TRIES and runs is not None and runs.answers():
                        _log.warning("MLflow at %s refused an event: %s", self._uri, _line(error))
                        self._lost.append(_line(error))
                        break
                    self._failure = _line(error)
                    if attempt == TRIES:
                        _log.warning("MLflow at %s fails, events wait: %s", self._uri, _line(error))
                    if self._give_up.wait(min(2.0 ** (attempt - 1), LONGEST_WAIT)):
                        return
            self._failure = None
            self._written += 1


@dataclass(frozen=True)
class _Found:
    """A run as an earlier tracker left it."""

    params: Mapping[str, str]
    metrics: frozenset[str]
    """Their keys."""
    status: str
    end_time: int | None


@dataclass
class _Runs:
    """The runs of one key in one store. A method that failed half-way may be called again."""

    client: "MlflowClient"
    experiment_id: str
    run: str
    tags: Mapping[str, str]
    """What is said of every run."""
    ids: dict[str, str] = field(default_factory=dict)
    """MLflow's id of each run, by its label: its `lamina.trial` tag, or _SWEEP."""
    open: set[str] = field(default_factory=set)
    """The labels of those not finished."""
    found: dict[str, _Found] = field(default_factory=dict)
    """Of the runs that were not made here, what they came with."""
    steps: dict[str, dict[str, set[int]]] = field(default_factory=dict)
    """By run and metric, the steps that have a value; asked for where the run was found, and
    forgotten when it has finished."""
    changed: set[str] = field(default_factory=set)
    """The labels of those that have a point that is new."""
    monitor: "SystemMetricsMonitor | None" = None
    """What records the load of this machine."""

    @staticmethod
    def connect(
        uri: str,
        artifacts: str | None,
        experiment: str,
        run: str,
        source: str,
        views: Mapping[str, str],
    ) -> "_Runs":
        """Open the store, create what is not there, and find what an earlier tracker left. `views`
        are tags of an experiment that is created."""
        # Lamina reports to nobody, prints its own lines, and waits in a way that can be ended.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        from mlflow import MlflowClient

        for name in ("mlflow.store.db.utils", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            # Without a kind, the UI asks everybody what the experiment is for.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            tags = {**kind, **views}
            experiment_id = client.create_experiment(experiment, artifacts, tags)
            note = _EXPERIMENT_NOTE.format(leaderboard=leaderboard_link(experiment_id))
            client.set_experiment_tag(experiment_id, "mlflow.note.content", note)
        else:
            experiment_id = found.experiment_id
            if found.lifecycle_stage == "deleted":
                client.restore_experiment(experiment_id)
        tags = {
            _RUN_TAG: run,
            "mlflow.user": _user(),
            "mlflow.source.name": source,
            "mlflow.source.type": "LOCAL",
            **_git_commit(),
        }
        runs = _Runs(client, experiment_id, run, tags)
        runs.find()
        return runs

    def answers(self) -> bool:
        """Whether the store is there at all."""
        try:
            self.client.get_experiment(self.experiment_id)
        except Exception:
            return False
        return True

    def find(self) -> None:
        """Look for runs of an earlier tracker, or of a call whose answer was lost."""
        token = None
        while True:
            wanted = f"tags.`{_RUN_TAG}` = '{self.run}'"
            page = self.client.search_runs([self.experiment_id], wanted, page_token=token)
            for each in page:
                label = each.data.tags.get(_TRIAL_TAG, _SWEEP)
                if label not in self.ids:
                    self.ids[label] = each.info.run_id
                    self.found[label] = _Found(
                        each.data.params,
                        frozenset(each.data.metrics),
                        each.info.status,
                        each.info.end_time,
                    )
                    if each.info.status == "RUNNING":
                        self.open.add(label)
            token = page.token
            if not token:
                return

    def do(self, item: "_Action | Points") -> None:
        if isinstance(item, Points):
            self.log(item.trial, item.points)
        else:
            item(self)

    def start(
        self, trial: str | None, name: str, params: Mapping[str, str], note: str, when: int
    ) -> None:
        from mlflow.entities import Param

        label = trial or _SWEEP
        found = self.found.get(label)
        if label not in self.ids:
            try:
                self._create(label, name, note, when)
            except Exception:
                self.find()
                raise
        elif label == _SWEEP or found is None or found.status != "FINISHED":
            self._reopen(label)
        there = found.params if found else {}
        new = [Param(key, value) for key, value in params.items() if key not in there]
        for start in range(0, len(new), PARAMS_PER_CALL):
            self.client.log_batch(self.ids[label], params=new[start : start + PARAMS_PER_CALL])
        changed = sorted(key for key, value in params.items() if there.get(key, value) != value)
        if changed:
            _log.warning("MLflow keeps the first params of run %s, not: %s", name, changed)

    def _create(self, label: str, name: str, note: str, when: int) -> None:
        tags = {**self.tags, "mlflow.note.content": note}
        if label != _SWEEP:
            tags[_TRIAL_TAG] = label
            if _SWEEP in self.ids:
                tags["mlflow.parentRunId"] = self.ids[_SWEEP]
        created = self.client.create_run(self.experiment_id, when, tags, run_name=name)
        self.ids[label] = created.info.run_id
        self.open.add(label)

    def _reopen(self, label: str) -> None:
        if label not in self.open:
            self.client.update_run(self.ids[label], status="RUNNING")
            self.open.add(label)

    def log(self, trial: str | None, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        label = trial or _SWEEP
        first = {
            (point.key, point.step): point
            for point in reversed(points)
            if point.step not in self._steps(label, point.key)
        }
        if not first:
            return
        self._reopen(label)
        self.changed.add(label)
        new = [Metric(each.key, each.value, each.time, each.step) for each in first.values()]
        for start in range(0, len(new), METRICS_PER_CALL):
            self.client.log_batch(self.ids[label], metrics=new[start : start + METRICS_PER_CALL])
        for key, step in first:
            self._steps(label, key).add(step)

    def _steps(self, label: str, key: str) -> set[int]:
        steps = self.steps.setdefault(label, {})
        if key not in steps:
            there = label in self.found and key in self.found[label].metrics
            history = self.client.get_metric_history(self.ids[label], key) if there else []
            steps[key] = {point.step for point in history}
        return steps[key]

    def artifact(self, trial: str | None, copy: Path, folder: str) -> None:
        run_id = self.ids[trial or _SWEEP]
        if copy.is_dir():
            self.client.log_artifacts(run_id, str(copy), folder or None)
        else:
            self.client.log_artifact(run_id, str(copy), folder or None)
        shutil.rmtree(copy.parent)

    def data(self, trial: str | None, data: DataDocument) -> None:
        """Name what a run learns from, as MLflow's data set: what it knows twice, it keeps once."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        known = Dataset(
            name=_key(data["name"]),
            digest=data["digest"],
            source_type=_source_type(data["source"]),
            source=dumps({"path": data["source"]}),
            profile=dumps(_profile(data)),
        )
        context = InputTag("mlflow.data.context", "train, validation, test")
        self.client.log_inputs(self.ids[trial or _SWEEP], [DatasetInput(known, [context])])

    def watch_machine(self, uri: str) -> None:
        """Record the load of this machine with the sweep's run, every 10 s until it has ended."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
        if self.monitor is None:
            self.monitor = SystemMetricsMonitor(
                self.ids[_SWEEP], resume_logging=_SWEEP in self.found, tracking_uri=uri
            )
            self.monitor.start()

    def model(self, model: TrackedModel, register: str | None) -> None:
        """Keep a bundle as the sweep's model, in place of an earlier one, and register it."""
        run_id = self.ids[_SWEEP]
        wanted = f"name = '{MODEL}' AND source_run_id = '{run_id}'"
        model_id = None
        for each in self.client.search_logged_models([self.experiment_id], wanted):
            if each.status == "READY" and each.tags.get(_TRIAL_TAG) == model.trial:
                model_id = each.model_id
            else:
                self.client.delete_logged_model(each.model_id)
        if model_id is None:
            model_id = self._save_model(model, run_id)
        if register is not None:
            self._register(register, model, model_id, run_id)

    def _save_model(self, model: TrackedModel, run_id: str) -> str:
        # MLflow warns of the types of classes of its own when it is imported.
        warnings.filterwarnings("ignore", "(?s).*Any type hint is inferred", UserWarning)
        logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
        from mlflow import pyfunc
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model

        tags = {f"lamina.{key}": value for key, value in model.tags.items()}
        kind = "language model" if model.answers == "tokens" else f"{model.modality} classifier"
        made = self.client.create_logged_model(
            self.experiment_id, MODEL, run_id, tags, model_type=kind
        )
        about = Model(
            made.artifact_location, run_id, model_uuid=made.model_id, model_id=made.model_id
        )
        with TemporaryDirectory(prefix="lamina-model-") as scratch:
            folder = str(Path(scratch) / MODEL)
            pyfunc.save_model(
                folder,
                loader_module=LOADER,
                data_path=str(model.bundle),
                mlflow_model=about,
                signature=_signature(model),
                input_example=["turn on the light"] if model.modality == "text" else None,
                pip_requirements=list(model.requirements),
            )
            self.client.log_model_artifacts(made.model_id, folder)
        self.client.finalize_logged_model(made.model_id, "READY")
        self.client.log_outputs(run_id, [LoggedModelOutput(made.model_id, step=0)])
        return str(made.model_id)

    def _register(self, name: str, model: TrackedModel, model_id: str, run_id: str) -> None:
        """A version of the registered model `name`, to which the alias CANDIDATE moves."""
        name = re.sub(r"[/:]", "_", name)
        wanted = f"name = '{name}'"
        if not self.client.search_registered_models(wanted):
            self.client.create_registered_model(name, description=_MODEL_NOTE)
        known = self.client.search_model_versions(f"{wanted} and run_id = '{run_id}'")
        own = [each.version for each in known if each.tags.get("trial") == model.trial]
        version = own[0] if own else None
        if version is None:
            # A database's registry would look for `models:/...` in the process's own store.
            kept = self.client.get_logged_model(model_id).artifact_location
            source = f"models:/{model_id}" if self.client.tracking_uri.startswith("http") else kept
            version = self.client.create_model_version(
                name, source, run_id, dict(model.tags), model_id=model_id
            ).version
        self.client.set_registered_model_alias(name, CANDIDATE, version)

    def finish(self, trial: str | None, status: Status, when: int) -> None:
        label = trial or _SWEEP
        found = self.found.get(label)
        if found and found.status == _STATUSES[status] and label not in self.changed:
            when = found.end_time or when  # It is only said again.
        self.client.set_terminated(self.ids[label], _STATUSES[status], when)
        self.open.discard(label)
        if status == "finished":
            self.steps.pop(label, None)

    def finish_sweep(self, status: Status, when: int) -> None:
        """Close the trials that are open as stopped, then the sweep as `status`."""
        if self.monitor is not None:
            self.monitor.finish()
        for label in sorted(self.open - {_SWEEP}):
            self.finish(label, "stopped", when)
        self.finish(None, status, when)

    def finish_rest(self, when: int) -> None:
        """Close as stopped what is open still."""
        for label in sorted(self.open, reverse=True):
            self.finish(label or None, "stopped", when)


def _signature(model: TrackedModel) -> "ModelSignature":
    """One column of any name, or a list, goes in; a label with its score, or a text and whether it
    came to its end, and a task come out."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    column = ColSpec("string" if model.modality == "text" else "binary")
    said = [ColSpec("string", "label"), ColSpec("double", "score")]
    params = [ParamSpec("task", "string", model.tasks[0])] if model.needs_task else []
    if model.answers == "tokens":
        said = [ColSpec("string", "text"), ColSpec("boolean", "is_whole")]
        params.append(ParamSpec("max_new_tokens", "long", model.max_new_tokens))
    schemas = Schema([column]), Schema([*said, ColSpec("string", "task", required=False)])
    if not params:
        return ModelSignature(*schemas)
    return ModelSignature(*schemas, params=ParamSchema(params))


def _source_type(source: str) -> str:
    """What kind of place it is, in MLflow's words."""
    if Path(source).exists():
        return "local"
    return "hugging_face" if "/" in source else "code"


def _profile(data: DataDocument) -> dict[str, object]:
    """Counts that a person reads in MLflow's list of data sets; MLflow cuts none of it."""
    tasks = data["tasks"]
    rows = {part: sum(each["rows"][part] for each in tasks) for part in tasks[0]["rows"]}
    return {
        "scenario": data["scenario"],
        "rows": rows,
        "tasks": [{**each, "classes": len(each["classes"])} for each in tasks],
    }


def _note(about: str) -> str:
    return f"{about}\n\n{_METRICS_NOTE}"


_Action: TypeAlias = Callable[[_Runs], None]


def flatten(params: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Params as MLflow takes them: dotted keys, and values as a job says them, cut if too long."""
    for key, value in params.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else dumps(value, default=str)
            cut = text if len(text) <= LONGEST_PARAM else text[: LONGEST_PARAM - 1] + "…"
            yield _key(f"{prefix}{key}"), cut


def _key(text: str) -> str:
    """`text` with what MLflow allows in a key."""
    return re.sub(r"[^\w./: -]", "_", text)


def _milliseconds() -> int:
    return int(time() * 1000)


def _line(error: Exception) -> str:
    return shorten(f"{type(error).__name__}: {error}", 300)


def _user() -> str:
    try:
        return getuser()
    except (KeyError, OSError):  # A container may run as a number that has no name.
        return str(os.getuid())


def _git_commit() -> dict[str, str]:
    """The tag of the commit checked out where the job was started; none outside a repository."""
    if shutil.which("git") is None:
        return {}
    command = ["git", "rev-parse", "HEAD"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return {"mlflow.source.git.commit": answer.stdout.strip()} if answer.returncode == 0 else {}
