"""Queries about trials. Nothing here changes anything."""

import json
from collections.abc import Mapping
from typing import Any, cast

from lamina.orchestration.store.ledger import Ledger
from lamina.orchestration.store.records import Boundary, Configuration, Report
from lamina.orchestration.store.transitions import State

MOST_EVENTS = 500
"""How many events are returned at a time: a late caller does not get all of them at once."""


class Queries:
    """Reads the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def trials(self) -> list[str]:
        """Every trial ever submitted, in that order."""
        return self._ledger.column("SELECT trial FROM trials ORDER BY position")

    def state(self, trial: str) -> State | None:
        """The state of `trial`; None if it was never submitted."""
        return cast(State | None, self._of("state", trial))

    def error(self, trial: str) -> str | None:
        """Why `trial` failed."""
        return self._of("error", trial)

    def name(self, trial: str) -> str:
        """The name of `trial` for people."""
        return str(self._of("name", trial))

    def mapping(self, trial: str) -> Mapping[str, Any]:
        """The whole job of `trial`, resolved."""
        return json.loads(str(self._of("mapping", trial)))

    def host(self, trial: str) -> str | None:
        """Where `trial` is learned at the moment."""
        return self._of("host", trial)

    def is_running(self, trial: str, host: str) -> bool:
        """Whether `trial` is to be trained, and by `host`."""
        return self.host(trial) == host

    def hold(self, trial: str) -> str | None:
        """`stop` or `pause` where a person has asked for that, and it still holds."""
        return self._of("hold", trial)

    def ahead(self, trial: str) -> int | None:
        """How many tasks of `trial` are learned before Ray Tune has come to it; None: it has."""
        return self._of("ahead", trial)

    def settings(self, trial: str) -> Mapping[str, Any] | None:
        """The changes of a person who wants `trial` trained; None where no person has asked."""
        settings = self._of("settings", trial)
        return None if settings is None else json.loads(settings)

    def wanted(self) -> list[str]:
        """The trials that a person wants trained, whoever else does."""
        return self._ledger.column(
            "SELECT trial FROM trials WHERE settings IS NOT NULL ORDER BY position"
        )

    def held(self, hold: str) -> list[str]:
        """The trials that a person has paused, or stopped."""
        return self._ledger.column(
            "SELECT trial FROM trials WHERE hold = ? ORDER BY position", hold
        )

    def fork_of(self, trial: str) -> Boundary | None:
        """Where `trial` was forked from another one, or took up what another one of its stage had
        learned."""
        row = self._ledger.row("SELECT fork_trial, fork_task FROM trials WHERE trial = ?", trial)
        return Boundary(*row) if row and row[0] is not None else None

    def last_boundary(self, trial: str) -> Boundary | None:
        """The last boundary of `trial`, where it can be resumed; None if it has learned nothing."""
        last = self.last_report(trial)
        return Boundary(trial, last["task"]) if last else self.fork_of(trial)

    def reports(self, trial: str) -> list[Report]:
        """The reports of `trial`, those before its fork included, in the order of tasks."""
        own = [
            json.loads(text)
            for text in self._ledger.column(
                "SELECT report FROM reports WHERE trial = ? ORDER BY task", trial
            )
        ]
        fork = self.fork_of(trial)
        before = self.reports(fork.trial) if fork else []
        return [each for each in before if fork and each["task"] <= fork.task] + own

    def report_of(self, trial: str, task: int) -> Report | None:
        """The report of one task, if it is there."""
        row = self._ledger.row(
            "SELECT report FROM reports WHERE trial = ? AND task = ?", trial, task
        )
        if row is not None:
            return json.loads(row[0])
        fork = self.fork_of(trial)
        return self.report_of(fork.trial, task) if fork and task <= fork.task else None

    def last_report(self, trial: str) -> Report | None:
        """The newest report of `trial` itself."""
        row = self._ledger.row(
            "SELECT report FROM reports WHERE trial = ? ORDER BY task DESC LIMIT 1", trial
        )
        return json.loads(row[0]) if row else None

    def owed(self) -> list[str]:
        """The trials that somebody wants, that have learned their last task, and whose bundle is
        not on the disk yet: a host has it, or has yet to take it on."""
        return self._ledger.column(
            "SELECT trial FROM trials WHERE state IN ('queued', 'running') AND EXISTS "
            "(SELECT 1 FROM reports WHERE reports.trial = trials.trial "
            "AND json_extract(report, '$.done')) ORDER BY position"
        )

    def events(self, after: int) -> list[tuple[int, dict[str, Any]]]:
        """The events after number `after`, in order, each with its number; the first `MOST_EVENTS`
        of them."""
        rows = self._ledger.rows(
            "SELECT number, event FROM events WHERE number > ? ORDER BY number LIMIT ?",
            after,
            MOST_EVENTS,
        )
        return [(number, json.loads(event)) for number, event in rows]

    def num_ended_on(self, host: str) -> int:
        """How many tasks `host` has reported, and trials that were given up on it."""
        row = self._ledger.row(
            "SELECT COUNT(*) FROM events WHERE "
            "(json_extract(event, '$.event') = 'reported' AND json_extract(event, '$.host') = ?) "
            "OR (json_extract(event, '$.event') = 'failed' AND json_extract(event, '$.on') = ?)",
            host,
            host,
        )
        assert row is not None
        return int(row[0])

    def configuration(self, config: str) -> Configuration | None:
        """The driver's description of a configuration of Ray Tune; None: there is none yet."""
        row = self._ledger.row(
            "SELECT name, mapping, stage, error FROM configurations WHERE config = ?", config
        )
        if row is None:
            return None
        name, mapping, stage, error = row
        return Configuration(name, mapping and json.loads(mapping), stage, error)

    def note(self, key: str) -> str | None:
        """The scheduler's note under `key`, of any session."""
        row = self._ledger.row("SELECT value FROM notes WHERE key = ?", key)
        return row[0] if row else None

    def _of(self, column: str, trial: str) -> Any:
        row = self._ledger.row(f"SELECT {column} FROM trials WHERE trial = ?", trial)
        return row[0] if row else None
