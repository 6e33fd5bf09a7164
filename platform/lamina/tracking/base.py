"""The verbs of a tracker, and several trackers as one."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, Protocol

from lamina.tracking.data import DataDocument
from lamina.tracking.model import TrackedModel

Status = Literal["finished", "failed", "stopped"]
"""How a run ended: by itself, by an error, or from outside (pruned, interrupted)."""


class TrackingError(RuntimeError):
    """Something could not be written. Training went on; the message says what and why."""


class Tracker(Protocol):
    """Records what one sweep, or one lone trial, says about itself.

    The calls of a sweep, in order::

        tracker.start_sweep("quickstart", params)
        for trial in trials:                            # they may overlap, from any thread
            tracker.start_trial(trial.id, trial.params, name="er-lora-lr0.002")
            for task, report in enumerate(learner.learn()):
                tracker.log(trial.id, report.metrics, step=task)
            tracker.artifact(trial.id, Path("adapters"), folder="adapters")
            tracker.finish_trial(trial.id, "finished")
        tracker.finish_sweep("finished")
        tracker.close()

    A lone trial is the same without `start_sweep` and `finish_sweep`. A sweep that goes on after a
    crash makes the same calls again on a new tracker: the runs are found again, and a metric that
    is logged once more changes nothing.
    """

    @property
    def shows_pictures(self) -> bool:
        """Whether a picture is worth drawing: it takes longer than a small task."""
        ...

    @property
    def pending(self) -> int:
        """How many of the calls below it has still to write."""
        ...

    def start_sweep(self, name: str, params: Mapping[str, object], about: str = "") -> None:
        """Open the run that the trials are children of; `params`, nested or not, are shared.
        `about` is what a person reads beside it, as Markdown."""

    def start_trial(
        self, trial: str, params: Mapping[str, object], name: str, about: str = ""
    ) -> None:
        """Open the run of `trial`, its lasting id; `name` is what a person calls it."""

    def data(self, trial: str | None, data: DataDocument) -> None:
        """What `trial`, or the sweep itself if it is None, learns from."""

    def log(self, trial: str | None, metrics: Mapping[str, float], step: int) -> None:
        """Metrics after task `step` (from 0) of `trial`, or of the sweep itself if it is None."""

    def artifact(self, trial: str | None, path: Path, folder: str = "") -> None:
        """Keep a file or folder under `folder`; `path` may change once the call has returned."""

    def model(self, model: TrackedModel) -> None:
        """Keep the sweep's best bundle as a model that answers. Its folder stays as it is."""

    def finish_trial(self, trial: str, status: Status) -> None:
        """Close the run of `trial`."""

    def finish_sweep(self, status: Status) -> None:
        """Close the sweep's run, and as stopped the run of every trial that nobody finished."""

    def close(self) -> None:
        """Return when all is written and no run is open. Once is enough. Raises TrackingError."""


class CompositeTracker:
    """Passes every call on to several trackers, in their order; with none, it keeps nothing."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = tuple(trackers)

    @property
    def shows_pictures(self) -> bool:
        return any(tracker.shows_pictures for tracker in self._trackers)

    @property
    def pending(self) -> int:
        return sum(tracker.pending for tracker in self._trackers)

    def start_sweep(self, name: str, params: Mapping[str, object], about: str = "") -> None:
        for tracker in self._trackers:
            tracker.start_sweep(name, params, about)

    def start_trial(
        self, trial: str, params: Mapping[str, object], name: str, about: str = ""
    ) -> None:
        for tracker in self._trackers:
            tracker.start_trial(trial, params, name, about)

    def data(self, trial: str | None, data: DataDocument) -> None:
        for tracker in self._trackers:
            tracker.data(trial, data)

    def log(self, trial: str | None, metrics: Mapping[str, float], step: int) -> None:
        for tracker in self._trackers:
            tracker.log(trial, metrics, step)

    def artifact(self, trial: str | None, path: Path, folder: str = "") -> None:
        for tracker in self._trackers:
            tracker.artifact(trial, path, folder)

    def model(self, model: TrackedModel) -> None:
        for tracker in self._trackers:
            tracker.model(model)

    def finish_trial(self, trial: str, status: Status) -> None:
        for tracker in self._trackers:
            tracker.finish_trial(trial, status)

    def finish_sweep(self, status: Status) -> None:
        for tracker in self._trackers:
            tracker.finish_sweep(status)

    def close(self) -> None:
        """Close all of them, whatever one of them raises."""
        with ExitStack() as stack:
            for tracker in reversed(self._trackers):
                stack.callback(tracker.close)
