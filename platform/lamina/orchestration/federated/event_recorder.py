"""Tells a tracker what happened in a federated run: metrics of each round, the adapter, the
manifest."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lamina.config import Job
from lamina.tracking.base import Status, Tracker, TrackingError
from lamina.tracking.trackers import make_tracker


class FederatedEventRecorder:
    """Turns the events of `run_federated` into calls of a tracker. The run has one MLflow run; its
    steps are rounds."""

    def __init__(self, job: Job, source: str) -> None:
        self._job = job
        self._source = source
        self._tracker: Tracker | None = None
        self._run = ""
        self._missing: dict[str, None] = {}
        """Why something could not be written, each once."""

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Record what happened. What cannot be written is said at the end: training is worth more
        than its diary."""
        with self._noting():
            self._record(event)

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except (OSError, TrackingError) as error:
            self._missing[str(error)] = None

    def _record(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "federation_started":
            job, self._run = self._job, f"{self._job.name}-{event['config']}"
            tracking = job.tracking
            self._tracker = make_tracker(
                job.output_dir.resolve(),
                tracking.enabled,
                tracking.mlflow_uri,
                tracking.experiment or job.name,
                self._source,
                # The same job in the same folder goes on in the same run.
                self._run,
                measure=job.measure,
            )
            params = {**job.settings(), "manifest": event["manifest"], "config": event["config"]}
            self._tracker.start_trial(self._run, params, job.name)
        elif event["event"] == "work_done" and event["metrics"] and self._tracker is not None:
            named = {f"round/{key}": value for key, value in event["metrics"].items()}
            metrics = named if event["kind"] == "train" else event["metrics"]
            self._tracker.log(self._run, metrics, step=event["round"])

    def finish(
        self, status: Status, metrics: Mapping[str, float], rounds: int, files: Mapping[Path, str]
    ) -> str | None:
        """Close the run with its last metrics and files (with their folders). Returns what could
        not be written."""
        tracker = self._tracker
        if tracker is None:
            return "; ".join(self._missing) or None
        with self._noting():
            if metrics:
                tracker.log(self._run, metrics, step=rounds)
            for path, folder in files.items():
                tracker.artifact(self._run, path, folder)
            tracker.finish_trial(self._run, status)
        with self._noting():
            tracker.close()
        return "; ".join(self._missing) or None
