"""The demand for training: by thin trials that wait for a task, by the scheduler ahead of them, by
a person. Nothing here waits: `actor.py` asks again after every change."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lamina.digests import trial_id
from lamina.orchestration.store import control
from lamina.orchestration.store.records import Boundary, Configuration, Expected, Report
from lamina.orchestration.store.shared_store import SharedStore
from lamina.orchestration.store.sweep_record import read_sweep


class Demand:
    """The demand, and what follows from it for the trials in the store."""

    def __init__(self, store: SharedStore, scheduled: bool) -> None:
        """`scheduled`: a scheduler looks at every report before a trial may go on."""
        self._store = store
        self._scheduled = scheduled
        self._waiting: Counter[tuple[str, int]] = Counter()
        """How many calls wait for a task of a trial. Ray makes them again when the store was
        killed."""
        self._unheard: set[str] = set()
        """The trials whose last task was learned before the scheduler had spoken of the one
        before."""

    def submit(self, job: Configuration, fork: Boundary | None) -> str:
        """Ray Tune has come to a trial. Returns its name."""
        assert job.mapping is not None
        trial = trial_id(job.mapping, fork)
        store = self._store
        with store.ledger.transaction():
            store.mark(trial, ahead=None)
            is_halfway = store.last_boundary(trial) is not None
            if store.hold(trial) is not None:
                control.pause_again(store, trial)
            elif self._scheduled and is_halfway and store.state(trial) != "finished":
                # It is queued when somebody waits for a task that it has not learned: the scheduler
                # may want none.
                store.pause_again(trial)
            else:
                stage = None if fork else job.stage
                store.submit(trial, job.name, job.mapping, fork, stage)
            if reason := read_sweep(store.ledger).abandoned:
                store.fail_all(reason)
        return trial

    def expect(self, trials: Sequence[Expected], num_tasks: int | None) -> None:
        """Queue trials that Ray Tune is going to ask for; under a scheduler, `num_tasks` of each
        are learned before it has a say."""
        with self._store.ledger.transaction():
            for each in trials:
                trial = trial_id(each.mapping, None)
                if self._store.state(trial) is None:
                    self._store.submit(trial, each.name, each.mapping, None, each.stage)
                    self._store.mark(trial, ahead=num_tasks)

    def advance(self, trials: Sequence[str], num_tasks: int) -> None:
        """The scheduler lets paused trials go on, with no say before `num_tasks` of each are
        learned: they are queued before Ray Tune has come to each of them."""
        with self._store.ledger.transaction():
            for trial in trials:
                if self._store.state(trial) == "paused" and self._store.hold(trial) is None:
                    self._store.mark(trial, ahead=num_tasks)
                    self._store.resume(trial)

    @contextmanager
    def waiting(self, trial: str, task: int) -> Iterator[None]:
        """Inside, a caller waits for `task` of `trial`."""
        self._waiting[trial, task] += 1
        ahead = self._store.ahead(trial)
        if ahead is not None and task >= ahead:
            self._store.mark(trial, ahead=None)
        try:
            yield
        finally:
            self._waiting[trial, task] -= 1

    def report_of(self, trial: str, task: int) -> Report | None:
        """The report of a task that somebody waits for, when it is there. A stopped or paused trial
        is queued again where a task is to be learned, or all are and its bundle is not there.

        Raises RuntimeError with the trial's own error when it has failed.
        """
        store = self._store
        state = store.state(trial)
        if (report := store.report_of(trial, task)) is not None:
            is_left = report["done"] and state in ("stopped", "paused")
            if is_left and store.hold(trial) != "stop":
                store.resume(trial)
            return report
        if state == "failed":
            raise RuntimeError(store.error(trial))
        assert state != "finished", f"{trial} has finished without a report of task {task}"
        hold = store.hold(trial)
        if hold == "stop":
            return control.last_word(store, trial)
        if state in ("stopped", "paused"):
            if read_sweep(store.ledger).is_closing:
                raise RuntimeError("the sweep is over")
            if hold is None:
                store.resume(trial)
        return None

    def is_decided(self, trial: str, host: str, report: Report) -> bool:
        """Whether it is known if `host` is to go on with a trial that has reported: not while a
        scheduler has yet to say whether it wants the next task."""
        store = self._store
        return (
            not self._scheduled
            or report["done"]
            or self._waiting[trial, int(report["task"]) + 1] > 0
            or not store.is_running(trial, host)
            or control.is_wanted(store, trial)
            or store.ahead(trial) is not None
            or read_sweep(store.ledger).is_closing
        )

    def hear(self, trial: str) -> None:
        """Note that the scheduler has decided on the last task of `trial`."""
        self._unheard.discard(trial)

    def hear_nothing(self, trial: str) -> None:
        """The scheduler has not spoken in time: it is slow, or held up. One task more may be
        learned on trust; after that, `trial` is paused until somebody waits for its next one."""
        if trial in self._unheard:
            self._unheard.discard(trial)
            self._store.pause(trial)
        else:
            self._unheard.add(trial)

    def goes_on(self, trial: str, host: str, report: Report) -> bool:
        """Whether `host` is to go on with a trial that has reported. One that has learned all that
        was foreseen is paused until the scheduler has had its say. One that has learned its last
        task is handed over, paused or not."""
        store = self._store
        if report["done"] and store.state(trial) == "paused":
            return True
        ahead = store.ahead(trial)
        next_task = int(report["task"]) + 1
        if self._scheduled and ahead is not None and next_task >= ahead and not report["done"]:
            store.pause(trial)
        is_over = read_sweep(store.ledger).is_closing and not report["done"]
        return store.is_running(trial, host) and not is_over

    def is_wanted(self, trial: str) -> bool:
        """Whether anybody waits for `trial`, or a person wants it."""
        waited_for = any(count for (each, _), count in self._waiting.items() if each == trial)
        return waited_for or trial in control.open_wishes(self._store)
