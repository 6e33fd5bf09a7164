"""A tracker that appends each event to `<output_dir>/events.jsonl`, one JSON object a line."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from threading import Lock

from lamina.folders import EVENTS
from lamina.tracking.base import Status
from lamina.tracking.data import DataDocument
from lamina.tracking.model import TrackedModel


class JsonLinesTracker:
    """Writes lines that `pandas.read_json(path, lines=True)` reads, each before the call returns.

    Every line has `time` (UTC), `event` (the tracker's verb) and `trial` (null for the sweep); a
    `log` line has `step` and a column per metric. A sweep that goes on after a crash appends: of
    two `log` lines with the same trial and step the later one counts.
    """

    shows_pictures = False
    pending = 0

    def __init__(self, output_dir: Path) -> None:
        output_dir.mkdir(parents=True, exist_ok=True)
        path = output_dir / EVENTS
        if path.exists():
            _drop_torn_line(path)
        self._lock = Lock()
        self._file = path.open("a", encoding="utf-8")

    def start_sweep(self, name: str, params: Mapping[str, object], about: str = "") -> None:
        self._append("start_sweep", None, name=name, params=params, about=about)

    def start_trial(
        self, trial: str, params: Mapping[str, object], name: str, about: str = ""
    ) -> None:
        self._append("start_trial", trial, name=name, params=params, about=about)

    def data(self, trial: str | None, data: DataDocument) -> None:
        # The sweep's line has the tasks; a trial's says which of its streams it is.
        self._append("data", trial, **(data if trial is None else {"digest": data["digest"]}))

    def log(self, trial: str | None, metrics: Mapping[str, float], step: int) -> None:
        # JSON has no word for a number that is not finite; pandas reads null as NaN.
        numbers = {key: value if isfinite(value) else None for key, value in metrics.items()}
        self._append("log", trial, step=step, **numbers)

    def artifact(self, trial: str | None, path: Path, folder: str = "") -> None:
        self._append("artifact", trial, path=str(path), folder=folder)

    def model(self, model: TrackedModel) -> None:
        self._append("model", model.trial, path=str(model.bundle))

    def finish_trial(self, trial: str, status: Status) -> None:
        self._append("finish_trial", trial, status=status)

    def finish_sweep(self, status: Status) -> None:
        self._append("finish_sweep", None, status=status)

    def close(self) -> None:
        with self._lock:
            self._file.close()

    def _append(self, event: str, trial: str | None, **fields: object) -> None:
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": time, "event": event, "trial": trial, **fields}, default=str)
        with self._lock:
            self._file.write(line + "\n")
            self._file.flush()


def _drop_torn_line(path: Path) -> None:
    """Cut off the half line that a killed process left: one bad line makes a file unreadable."""
    with path.open("rb+") as file:
        file.truncate(file.read().rfind(b"\n") + 1)
