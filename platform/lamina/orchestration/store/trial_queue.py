"""The queue of trials: every request that changes the state of a trial.

Which state follows is in `transitions.py`; `TrialStates` sets it.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any

from lamina.orchestration.store.checkpoints import Checkpoints
from lamina.orchestration.store.first_stages import FirstStages
from lamina.orchestration.store.ledger import Ledger
from lamina.orchestration.store.queries import Queries
from lamina.orchestration.store.records import Boundary, Claim, Report
from lamina.orchestration.store.transitions import can
from lamina.orchestration.store.trial_states import TrialStates

MOST_DEATHS = 3
"""How often a trial may take its host down on one task before it counts as failed."""
_DIED = (
    f"its host died {MOST_DEATHS} times on the same task (out of memory, or code of the trial "
    "ended the process)"
)


class TrialQueue:
    """The trials of a sweep, in the order in which they were submitted. Every method may be called
    again with the same arguments: it counts once."""

    def __init__(
        self,
        ledger: Ledger,
        queries: Queries,
        checkpoints: Checkpoints,
        stages: FirstStages,
        pauses_followers: bool,
    ) -> None:
        """`pauses_followers`: a scheduler looks at every report, so a trial that gets its first
        task from another one waits until somebody wants the second."""
        self._ledger = ledger
        self._queries = queries
        self._checkpoints = checkpoints
        self._stages = stages
        self._pauses_followers = pauses_followers
        self._states = TrialStates(ledger, queries)

    # Somebody wants a trial, or does not

    def submit(
        self,
        trial: str,
        name: str,
        mapping: Mapping[str, Any],
        fork: Boundary | None = None,
        stage: str | None = None,
    ) -> None:
        """Queue `trial`, or queue it again if it was stopped or paused. One that has finished is
        announced, once in a session.

        A fork goes on from another trial's boundary. Trials of one `stage` are the same until their
        second task: one learns the first, the others go on from its boundary.
        """
        with self._ledger.transaction():
            is_new = self._queries.state(trial) is None
            if is_new:
                self._add(trial, name, mapping, fork)
            if not self._states.apply(trial, "submit"):
                return
            if is_new and fork is not None:
                self._report_past(trial)
            if stage is not None:
                self._stages.join(trial, stage)
                self._follow(trial)

    def pause_again(self, trial: str) -> None:
        """Take `trial`, which an earlier session left, up again without queuing it: what it learned
        is known, and nobody has asked for more yet."""
        with self._ledger.transaction():
            self._states.apply(trial, "pause_again")

    def resume(self, trial: str) -> None:
        """Queue `trial` again, whatever ended it before its last task."""
        with self._ledger.transaction():
            self._states.apply(trial, "resume")

    def pause(self, trial: str) -> None:
        """Nobody needs more of `trial` now: it leaves its host at its next boundary."""
        with self._ledger.transaction():
            self._states.apply(trial, "pause")

    def stop(self, trial: str) -> None:
        """Nobody needs more of `trial`: it ends at its next boundary."""
        with self._ledger.transaction():
            self._states.apply(trial, "stop")

    # Hosts

    def claim(
        self,
        host: str,
        incarnation: str,
        only_trained: bool = False,
        held: Collection[str] = (),
        num_hosts: int = 1,
    ) -> Claim | None:
        """The next trial for `host`, or None if there is none.

        A host that asks again before it is done gets the same trial again: after a lost answer, or
        because it died and came back (as another `incarnation`). One that trains several at a time
        names those that it has `held`, and gets no more than its share among `num_hosts`.
        `only_trained`: only a trial whose last task is learned, but not handed over.
        """
        with self._ledger.transaction():
            for trial, before in self._running_on(host):
                if trial in held:
                    continue
                if before == incarnation or self._claim_again(trial, host, incarnation):
                    return self._claim_of(trial)
            (active,) = self._ledger.row(
                "SELECT COUNT(*) FROM trials WHERE state IN ('queued', 'running')"
            ) or (0,)
            if held and len(held) >= -(-active // num_hosts):
                return None
            for trial in self._queued():
                if trial in held:
                    # The host was thought to be gone, and is still learning its task.
                    continue
                last = self._queries.last_report(trial)
                if only_trained and not (last and last["done"]):
                    continue
                if self._stages.is_led(trial):
                    continue
                self._states.apply(trial, "claim", host=host, incarnation=incarnation)
                return self._claim_of(trial)
            return None

    def release(self, host: str) -> None:
        """`host` is gone: what it was training is queued again. A trial that was there too often
        when a host was lost has failed."""
        with self._ledger.transaction():
            for trial, _ in self._running_on(host):
                if self._states.deaths(trial) + 1 < MOST_DEATHS:
                    self._states.apply(trial, "lose_host", deaths=self._states.deaths(trial) + 1)
                else:
                    self._states.apply(trial, "fail", error=_DIED, on=host)

    def report(self, trial: str, host: str, report: Report, pieces: Mapping[str, bytes]) -> bool:
        """A task is learned: its report, and the checkpoint at its end in named pieces.

        Returns whether `host` should go on. A second delivery changes nothing.
        """
        return self.record(trial, host, report, self._checkpoints.write(pieces))

    def record(self, trial: str, host: str, report: Report, digests: Mapping[str, str]) -> bool:
        """As `report`, of a checkpoint that is written: `digests` is what `Checkpoints.write`
        returned. Nothing else may be recorded in between, as it may delete what is written."""
        boundary = Boundary(trial, int(report["task"]))
        with self._ledger.transaction():
            is_new = self._ledger.change(
                "INSERT OR IGNORE INTO reports VALUES (?, ?, ?)",
                trial,
                boundary.task,
                json.dumps(report),
            )
            stale = self._checkpoints.forget_midway(trial) if is_new else []
            if is_new:
                self._checkpoints.add(boundary, digests)
                self._ledger.change("UPDATE trials SET deaths = 0 WHERE trial = ?", trial)
                self._ledger.add_event("reported", trial, report=report, host=host)
                for follower in self._stages.waiting_for(trial) if boundary.task == 0 else []:
                    self._follow(follower)
            unused = self._checkpoints.forget_before_last(trial)
        stale = [each for each in stale if each not in digests.values()]
        self._checkpoints.delete([*unused, *stale])
        return self._queries.is_running(trial, host)

    def record_midway(self, trial: str, host: str, task: int, digests: Mapping[str, str]) -> None:
        """Keep the checkpoint that `host` has written within `task` of `trial`, in the place of the
        one before; nothing where the trial is another host's by now, or the task is learned."""
        with self._ledger.transaction():
            is_under_way = self._queries.report_of(trial, task) is None
            if not is_under_way or not self._queries.is_running(trial, host):
                return
            unused = self._checkpoints.keep_midway(Boundary(trial, task), digests)
        self._checkpoints.delete(unused)

    def finish(self, trial: str, artifacts: str | None = None) -> None:
        """The last task of `trial` is learned and everything is handed over; `artifacts` is the
        folder of what it leaves."""
        with self._ledger.transaction():
            self._states.apply(trial, "finish", artifacts=artifacts)

    def fail(self, trial: str, error: str) -> None:
        """`trial` raised `error`."""
        with self._ledger.transaction():
            self._states.apply(trial, "fail", error=error)

    # All trials

    def fail_all(self, error: str) -> None:
        """Nobody is left to train: whatever has not ended has failed."""
        with self._ledger.transaction():
            for trial in self._queries.trials():
                self._states.apply(trial, "give_up", error=error)

    def stop_all(self) -> None:
        """The sweep is over: what has not ended has stopped."""
        with self._ledger.transaction():
            for trial in self._queries.trials():
                self._states.apply(trial, "stop")

    def restart(self) -> None:
        """A new session: what has not finished is stopped until somebody asks for it."""
        with self._ledger.transaction():
            for trial in self._queries.trials():
                self._states.apply(trial, "restart", deaths=0)

    # Inside a transaction

    def _add(
        self, trial: str, name: str, mapping: Mapping[str, Any], fork: Boundary | None
    ) -> None:
        self._ledger.change(
            "INSERT INTO trials (trial, name, mapping, fork_trial, fork_task, state, position) "
            "VALUES (?, ?, ?, ?, ?, 'new', (SELECT COALESCE(MAX(position), 0) + 1 FROM trials))",
            trial,
            name,
            json.dumps(mapping),
            fork and fork.trial,
            fork and fork.task,
        )

    def _claim_again(self, trial: str, host: str, incarnation: str) -> bool:
        """`host` has died with `trial` and come back. Returns whether it may try once more."""
        deaths = self._states.deaths(trial) + 1
        if deaths < MOST_DEATHS:
            return self._states.apply(
                trial, "claim_again", host=host, incarnation=incarnation, deaths=deaths
            )
        self._states.apply(trial, "fail", error=_DIED, on=host)
        return False

    def _follow(self, trial: str) -> None:
        """Let `trial` go on from the first boundary of another one of its stage, if there is
        one."""
        source = self._stages.source(trial)
        if source is None:
            return
        self._ledger.change(
            "UPDATE trials SET fork_trial = ?, fork_task = 0 WHERE trial = ?", source, trial
        )
        if self._pauses_followers and can(self._queries.state(trial), "follow"):
            self._states.apply(trial, "follow")
        self._report_past(trial)

    def _report_past(self, trial: str) -> None:
        """The reports from before a fork are the fork's own as well."""
        for report in self._queries.reports(trial):
            self._ledger.add_event("reported", trial, report=report, host=None)

    def _claim_of(self, trial: str) -> Claim:
        queries = self._queries
        return Claim(trial, queries.name(trial), queries.mapping(trial), self._states.deaths(trial))

    def _queued(self) -> list[str]:
        return self._ledger.column(
            "SELECT trial FROM trials WHERE state = 'queued' ORDER BY position"
        )

    def _running_on(self, host: str) -> list[tuple[Any, ...]]:
        """The trials of `host`, each with the incarnation that claimed it."""
        return self._ledger.rows(
            "SELECT trial, incarnation FROM trials WHERE state = 'running' AND host = ? "
            "ORDER BY position",
            host,
        )
