"""Tells the tracker every event of the store, in order, beside the store's own work."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lamina.orchestration.store.event_recorder import EventRecorder, TrialReports
from lamina.orchestration.store.shared_store import SharedStore
from lamina.orchestration.store.sweep_record import change_sweep, read_sweep
from lamina.tracking.base import TrackingError

MOST_PENDING = 1000
"""Calls that wait in the tracker, at most, before it is told more: what it has not been told is in
the ledger, and takes no memory."""
_PAUSE_SECONDS = 0.2


class Narrator:
    """The one writer to the tracker. It has a thread of its own, because it draws pictures.

    How far it is becomes durable when the sweep is closed. A store that was killed tells the events
    of its session again: the recorder is idempotent.
    """

    def __init__(self, store: SharedStore, recorder: EventRecorder) -> None:
        self._store = store
        self._recorder = recorder
        self._thread = ThreadPoolExecutor(1, "recorder")
        self._recorded = read_sweep(store.ledger).recorded
        self._missing: list[str] = []
        """The error of the recorder, where it could not record something."""
        self._task: asyncio.Task[None] | None = None
        self._is_closing = False

    def notify(self) -> None:
        """Tell the narrator that there may be new events. Returns at once."""
        if self._task is None and self._store.ledger.last_event() > self._recorded:
            self._task = asyncio.get_running_loop().create_task(self._tell())

    async def close(self) -> str | None:
        """Return when everything is written: what could not be, or None."""
        # A tracker that does not answer gives up by itself once it is closed.
        self._is_closing = True
        while self._task is not None:
            await self._task
        missing = [*self._missing]
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._recorder.close)
            change_sweep(self._store.ledger, recorded=self._recorded)
        except TrackingError as error:
            missing.append(str(error))
        return "; ".join(missing) or None

    @property
    def behind(self) -> int:
        """The number of events that the tracker has not written yet."""
        return self._store.ledger.last_event() - self._recorded + self._recorder.pending

    async def _tell(self) -> None:
        loop = asyncio.get_running_loop()
        while news := self._store.events(self._recorded):
            for number, event in news:
                trials = [
                    TrialReports(trial, self._store.name(trial), self._store.reports(trial))
                    for trial in self._concerned(event)
                ]
                try:
                    await loop.run_in_executor(self._thread, self._recorder.record, event, trials)
                except Exception as error:
                    # A full disk, say. Training is worth more than its diary.
                    self._missing.append(f"{event['event']} of {event['trial']}: {error}")
                self._recorded = number
                while self._recorder.pending > MOST_PENDING and not self._is_closing:
                    await asyncio.sleep(_PAUSE_SECONDS)
        self._task = None

    def _concerned(self, event: Mapping[str, Any]) -> list[str]:
        """The trials whose reports the recorder needs to record `event`."""
        if event["event"] == "sweep_finished":
            return self._store.trials()
        return [event["trial"]] if event["event"] in ("finished", "failed", "stopped") else []
