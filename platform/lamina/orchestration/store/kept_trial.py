"""The one trial of `lamina run`, kept as a sweep keeps its trials: in a store of its own."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from lamina.orchestration.store.records import Report
from lamina.orchestration.store.shared_store import SharedStore
from lamina.orchestration.store.sweep_record import change_sweep, read_sweep
from lamina.registry import InputError
from lamina.training.checkpoint import checkpoint_of, restore
from lamina.training.learner import Learner

_STORE = "store"
_HOST = "run"


class KeptTrial:
    """A trial that goes on after a kill: from its last task, or its last place within one."""

    def __init__(
        self, store: SharedStore, trial: str, name: str, mapping: Mapping[str, Any]
    ) -> None:
        """`store` is of this trial alone; `mapping` is its whole job."""
        self._store = store
        self._trial = trial
        store.submit(trial, name, mapping)
        store.claim(_HOST, uuid4().hex)
        self.run = read_sweep(store.ledger).run or uuid4().hex
        """The tracker's key of it, for as long as the trial is kept."""
        change_sweep(store.ledger, run=self.run)
        self.damages: list[str] = []
        """What was kept and could not be used, a line each."""
        self.is_midway = False
        """Whether it goes on within a task."""

    def restore(self, learner: Learner) -> list[Report]:
        """Bring a new learner to where the trial was left. Returns the reports of the tasks that it
        has learned."""
        while (digests := self._store.start(self._trial)) is not None:
            try:
                pieces = self._store.read(digests)
            except InputError as damage:
                self._store.set_back(self._trial, str(damage))
                self.damages.append(str(damage))
            else:
                restore(learner, pieces)
                break
        self.is_midway = bool(self._store.midway(self._trial))
        return self._store.reports(self._trial)

    def keep(self, report: Report, learner: Learner) -> None:
        """A task is learned."""
        self._store.report(self._trial, _HOST, report, checkpoint_of(learner))

    def keep_midway(self, learner: Learner) -> None:
        """The learner is within a task: a checkpoint, in the place of the one before."""
        digests = self._store.write(checkpoint_of(learner))
        self._store.record_midway(self._trial, _HOST, learner.next_task, digests)


@contextmanager
def kept_trial(
    folder: Path, trial: str, name: str, mapping: Mapping[str, Any]
) -> Iterator[KeptTrial]:
    """The trial that is kept in `folder`, for the time of the block, or a new one. Where the block
    ends by itself the trial has learned all, and nothing is kept of it; where that was so before,
    or nothing was kept, what else is in `folder` is deleted first.

    Raises InputError where what was kept is damaged, or of another version of Lamina.
    """
    if not (folder / _STORE).is_dir():
        shutil.rmtree(folder, ignore_errors=True)
    store = SharedStore(folder / _STORE, uuid4().hex, output_dir=folder)
    try:
        yield KeptTrial(store, trial, name, mapping)
    finally:
        store.close()
    shutil.rmtree(folder / _STORE)
