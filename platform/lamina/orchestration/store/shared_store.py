"""What a sweep must not lose: its queue of trials, their reports, checkpoints, replay memories and
adapters.

No Ray here: `store_actor.py` puts one `SharedStore` behind an actor. Everything is on disk before a
call returns: facts in one SQLite file, because a report, the checkpoint that belongs to it and the
trial's new state must appear together or not at all (with loose files that would need a journal of
our own); bytes as safetensors files beside it, because a database is a poor place for megabytes.
Every call may be repeated: it is delivered at least once, and counts once.
"""

import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lamina.orchestration.payloads import Payloads
from lamina.orchestration.store import first_stages
from lamina.orchestration.store.first_stages import FirstStages
from lamina.registry import InputError

State = Literal["queued", "running", "paused", "finished", "failed", "stopped"]
Report = dict[str, Any]
"""A TaskReport as plain JSON."""

MOST_DEATHS = 3
"""So often may a trial take its host down on one task before it counts as failed."""
_LOCK_SECONDS = 20.0
"""How long a store waits for the one before it (of a driver that was just killed, say) to let go of
the file."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS trials (
    trial TEXT PRIMARY KEY, name TEXT NOT NULL, mapping TEXT NOT NULL,
    fork_trial TEXT, fork_task INTEGER, place INTEGER NOT NULL, state TEXT NOT NULL,
    host TEXT, incarnation TEXT, deaths INTEGER NOT NULL DEFAULT 0, error TEXT
);
CREATE TABLE IF NOT EXISTS reports (
    trial TEXT NOT NULL, task INTEGER NOT NULL, report TEXT NOT NULL, PRIMARY KEY (trial, task)
);
CREATE TABLE IF NOT EXISTS payloads (
    trial TEXT NOT NULL, task INTEGER NOT NULL, part TEXT NOT NULL, digest TEXT NOT NULL,
    PRIMARY KEY (trial, task, part)
);
CREATE INDEX IF NOT EXISTS payloads_by_digest ON payloads (digest);
CREATE TABLE IF NOT EXISTS events (place INTEGER PRIMARY KEY AUTOINCREMENT, event TEXT NOT NULL);
"""


@dataclass(frozen=True)
class Boundary:
    """The end of a task of a trial: where it can be taken up again, by itself or by a fork of
    it."""

    trial: str
    task: int


@dataclass(frozen=True)
class Claim:
    """A trial that a host has to train."""

    trial: str
    mapping: Mapping[str, Any]
    """Its whole job, resolved."""
    start: Boundary | None
    """The boundary that it goes on from; None: from the beginning."""
    deaths: int = 0
    """How often it was there when its host died on this task: then it is trained alone."""


@dataclass(frozen=True)
class Expected:
    """A trial that is known before anybody has asked for it."""

    name: str
    mapping: Mapping[str, Any]
    stage: str | None
    """What names its first stage, if it shares that with others."""


class SharedStore:
    """The state of one sweep under `<output_dir>/store/`.

    A trial is queued, then running on a host, then finished, failed or stopped. One that is paused
    has left its host at a boundary, and is queued again when somebody waits for it; so is a stopped
    one when somebody submits it. A new `session` (a new driver) finds finished trials finished and
    the others stopped. Raises InputError when another sweep has
    the folder open.
    """

    def __init__(self, folder: Path, session: str, keep_boundaries: bool = False) -> None:
        """`keep_boundaries` keeps every checkpoint, not only the last, so that trials can be forked
        anywhere."""
        folder.mkdir(parents=True, exist_ok=True)
        self._database = _open(folder / "ledger.sqlite")
        self._payloads = Payloads(folder / "payloads")
        self._stages = FirstStages(self._database)
        self._keep_boundaries = keep_boundaries
        self._told: set[str] = set()
        """Trials of which this session has said that they are finished."""
        with self._transaction() as database:
            if self.fact("session") != session:
                database.execute(
                    "UPDATE trials SET state = 'stopped', host = NULL, deaths = 0, error = NULL "
                    "WHERE state != 'finished'"
                )
                self.set_fact("session", session)
                self.set_fact("session_start", str(self._last_event()))
        self._payloads.keep_only(self._column("SELECT DISTINCT digest FROM payloads"))

    # Trials

    def submit(
        self,
        trial: str,
        name: str,
        mapping: Mapping[str, Any],
        fork: Boundary | None = None,
        stage: str | None = None,
    ) -> None:
        """Queue `trial`, or queue it again if it was stopped or paused.

        A fork goes on from another trial's boundary. Trials of one `stage` are the same until their
        second task: one learns the first, the others go on from its boundary.
        """
        with self._transaction() as database:
            found = self.state(trial)
            if found is None:
                fork_trial, fork_task = (fork.trial, fork.task) if fork else (None, None)
                database.execute(
                    "INSERT INTO trials "
                    "(trial, name, mapping, fork_trial, fork_task, state, place) "
                    "VALUES (?, ?, ?, ?, ?, 'queued', "
                    "(SELECT COALESCE(MAX(place), 0) + 1 FROM trials))",
                    (trial, name, json.dumps(mapping), fork_trial, fork_task),
                )
            elif found in ("stopped", "paused"):
                self._set_state(trial, "queued")
            elif found == "finished" and trial not in self._told:
                self._told.add(trial)
                self._add_event("known", trial, name=name, reports=self.reports(trial))
                return
            else:
                return
            self._add_event("submitted", trial, name=name, mapping=mapping)
            if found is None and fork is not None:
                self._tell_past(trial)
            if stage is not None:
                self._stages.join(trial, stage)
                self._follow(trial)

    def recall(self, trial: str) -> None:
        """Take `trial`, which an earlier session stopped, up again without queuing it: what it
        learned is known, and nobody has asked for more yet."""
        with self._transaction():
            if self.state(trial) == "stopped":
                self._set_state(trial, "paused")
                self._add_event(
                    "submitted", trial, name=self.name(trial), mapping=self.mapping(trial)
                )

    def resume(self, trial: str) -> None:
        """Queue `trial` again, whatever ended it before its last task."""
        with self._transaction():
            if self.state(trial) in ("stopped", "paused", "failed"):
                self._set_state(trial, "queued")
                self._add_event(
                    "submitted", trial, name=self.name(trial), mapping=self.mapping(trial)
                )

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
        with self._transaction() as database:
            mine = database.execute(
                "SELECT trial, incarnation, deaths FROM trials "
                "WHERE state = 'running' AND host = ? ORDER BY place",
                (host,),
            ).fetchall()
            for trial, before, deaths in mine:
                if trial in held:
                    continue
                if before == incarnation:
                    return self._claim_of(trial)
                if deaths + 1 < MOST_DEATHS:
                    self._run_on(trial, host, incarnation, deaths + 1)
                    return self._claim_of(trial)
                self._fail(trial, f"its host died {MOST_DEATHS} times on the same task")
            (active,) = database.execute(
                "SELECT COUNT(*) FROM trials WHERE state IN ('queued', 'running')"
            ).fetchone()
            if held and len(held) >= -(-active // num_hosts):
                return None
            for trial in self._column(
                "SELECT trial FROM trials WHERE state = 'queued' ORDER BY place"
            ):
                last = self.last_report(trial)
                if only_trained and not (last and last["done"]):
                    continue
                if self._stages.is_led(trial):
                    continue
                self._run_on(trial, host, incarnation, 0)
                return self._claim_of(trial)
            return None

    def release(self, host: str) -> None:
        """`host` will not come back: what it was training is queued again."""
        with self._transaction() as database:
            database.execute(
                "UPDATE trials SET state = 'queued', host = NULL "
                "WHERE state = 'running' AND host = ?",
                (host,),
            )

    def report(self, trial: str, host: str, report: Report, parts: Mapping[str, bytes]) -> bool:
        """A task is learned: its report, and the checkpoint at its end in named parts.

        Returns whether `host` should go on. A second delivery changes nothing.
        """
        task = int(report["task"])
        digests = {part: self._payloads.put(content) for part, content in parts.items()}
        with self._transaction() as database:
            added = database.execute(
                "INSERT OR IGNORE INTO reports VALUES (?, ?, ?)", (trial, task, json.dumps(report))
            ).rowcount
            if added:
                database.executemany(
                    "INSERT INTO payloads VALUES (?, ?, ?, ?)",
                    [(trial, task, part, digest) for part, digest in digests.items()],
                )
                database.execute("UPDATE trials SET deaths = 0 WHERE trial = ?", (trial,))
                self._add_event("reported", trial, report=report, host=host)
                for follower in self._stages.waiting_for(trial) if task == 0 else []:
                    self._follow(follower)
            unused = [] if self._keep_boundaries else self._drop_boundaries(trial, is_over=False)
        self._payloads.delete(unused)
        return self.is_running(trial, host)

    def is_running(self, trial: str, host: str) -> bool:
        """Whether `trial` is to be trained, and by `host`."""
        row = self._database.execute(
            "SELECT 1 FROM trials WHERE trial = ? AND state = 'running' AND host = ?", (trial, host)
        ).fetchone()
        return row is not None

    def pause(self, trial: str) -> None:
        """Nobody needs more of `trial` now: it leaves its host at its next boundary."""
        with self._transaction():
            if self.state(trial) in ("queued", "running"):
                self._set_state(trial, "paused")
                self._add_event("paused", trial)

    def stop(self, trial: str) -> None:
        """Nobody needs more of `trial`: it ends at its next boundary."""
        with self._transaction():
            if self.state(trial) in ("queued", "running", "paused"):
                self._set_state(trial, "stopped")
                self._add_event("stopped", trial)

    def finish(self, trial: str, artifacts: str | None = None) -> None:
        """The last task of `trial` is learned and everything is handed over; `artifacts` is the
        folder of its adapters."""
        with self._transaction():
            if self.state(trial) not in ("finished", "failed"):
                self._set_state(trial, "finished")
                self._told.add(trial)
                self._add_event("finished", trial, artifacts=artifacts)

    def fail(self, trial: str, error: str) -> None:
        """`trial` raised `error`."""
        with self._transaction():
            if self.state(trial) not in ("finished", "failed"):
                self._fail(trial, error)

    def fail_all(self, error: str) -> None:
        """Nobody is left to train: whatever has not ended has failed."""
        with self._transaction():
            for trial in self._unfinished():
                self._fail(trial, error)

    def stop_all(self) -> None:
        """The sweep is over: what has not ended has stopped."""
        with self._transaction():
            for trial in self._unfinished():
                self._set_state(trial, "stopped")
                self._add_event("stopped", trial)

    # What is known

    def state(self, trial: str) -> State | None:
        """The state of `trial`; None if it was never submitted."""
        row = self._database.execute(
            "SELECT state FROM trials WHERE trial = ?", (trial,)
        ).fetchone()
        return row[0] if row else None

    def error(self, trial: str) -> str | None:
        """Why `trial` failed."""
        (error,) = self._database.execute(
            "SELECT error FROM trials WHERE trial = ?", (trial,)
        ).fetchone()
        return error

    def name(self, trial: str) -> str:
        """What a person calls `trial`."""
        (name,) = self._database.execute(
            "SELECT name FROM trials WHERE trial = ?", (trial,)
        ).fetchone()
        return str(name)

    def mapping(self, trial: str) -> Mapping[str, Any]:
        """The whole job of `trial`, resolved."""
        (mapping,) = self._database.execute(
            "SELECT mapping FROM trials WHERE trial = ?", (trial,)
        ).fetchone()
        return json.loads(mapping)

    def host(self, trial: str) -> str | None:
        """Where `trial` is learned at the moment."""
        row = self._database.execute(
            "SELECT host FROM trials WHERE trial = ? AND state = 'running'", (trial,)
        ).fetchone()
        return row[0] if row else None

    def fork_of(self, trial: str) -> Boundary | None:
        """Where `trial` was forked from another one, or took up what another one of its stage had
        learned."""
        return self._fork(trial)

    def last_boundary(self, trial: str) -> Boundary | None:
        """Where `trial` can be taken up again; None if it has learned nothing."""
        last = self.last_report(trial)
        return Boundary(trial, last["task"]) if last else self._fork(trial)

    def trials(self) -> list[str]:
        """Every trial ever submitted, in that order."""
        return self._column("SELECT trial FROM trials ORDER BY place")

    def reports(self, trial: str) -> list[Report]:
        """The reports of `trial`, those before its fork included, in the order of tasks."""
        mine = [
            json.loads(text)
            for text in self._column(
                "SELECT report FROM reports WHERE trial = ? ORDER BY task", trial
            )
        ]
        fork = self._fork(trial)
        before = (
            [each for each in self.reports(fork.trial) if each["task"] <= fork.task] if fork else []
        )
        return before + mine

    def report_of(self, trial: str, task: int) -> Report | None:
        """The report of one task, if it is there."""
        row = self._database.execute(
            "SELECT report FROM reports WHERE trial = ? AND task = ?", (trial, task)
        ).fetchone()
        if row is not None:
            return json.loads(row[0])
        fork = self._fork(trial)
        return self.report_of(fork.trial, task) if fork and task <= fork.task else None

    def last_report(self, trial: str) -> Report | None:
        """The newest report of `trial` itself."""
        row = self._database.execute(
            "SELECT report FROM reports WHERE trial = ? ORDER BY task DESC LIMIT 1", (trial,)
        ).fetchone()
        return json.loads(row[0]) if row else None

    def parts(self, boundary: Boundary) -> dict[str, bytes]:
        """The checkpoint at `boundary`: the bytes of each part (its replay memory and adapters
        among them)."""
        rows = self._database.execute(
            "SELECT part, digest FROM payloads WHERE trial = ? AND task = ? ORDER BY part",
            (boundary.trial, boundary.task),
        ).fetchall()
        return {part: self._payloads.get(digest) for part, digest in rows}

    def events(self, after: int) -> list[tuple[int, dict[str, Any]]]:
        """What happened after event number `after`, in order, each with its number."""
        rows = self._database.execute(
            "SELECT place, event FROM events WHERE place > ? ORDER BY place", (after,)
        )
        return [(place, json.loads(event)) for place, event in rows]

    def add_event(self, kind: str, **fields: Any) -> None:
        """Take down something that concerns no trial (a host came or went)."""
        with self._transaction():
            self._add_event(kind, None, **fields)

    def fact(self, key: str) -> str | None:
        """A remembered word."""
        row = self._database.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def set_fact(self, key: str, value: str) -> None:
        """Remember a word."""
        self._database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (key, value))

    def facts(self, prefix: str) -> dict[str, str]:
        """The remembered words whose keys begin with `prefix`, by the rest of the key."""
        rows = self._database.execute(
            "SELECT key, value FROM facts WHERE substr(key, 1, ?) = ? ORDER BY rowid",
            (len(prefix), prefix),
        )
        return {key[len(prefix) :]: value for key, value in rows}

    def forget_fact(self, key: str) -> None:
        """Remember a word no longer."""
        self._database.execute("DELETE FROM facts WHERE key = ?", (key,))

    def tidy(self) -> None:
        """Keep only the last checkpoint of every trial, and those that a fork has yet to start
        from: the sweep is over."""
        with self._transaction():
            unused = [
                digest
                for trial in self.trials()
                for digest in self._drop_boundaries(trial, is_over=True)
            ]
        self._payloads.delete(unused)

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    # Inside a transaction

    def _unfinished(self) -> list[str]:
        return self._column(
            "SELECT trial FROM trials WHERE state IN ('queued', 'running', 'paused')"
        )

    def _claim_of(self, trial: str) -> Claim:
        (deaths,) = self._database.execute(
            "SELECT deaths FROM trials WHERE trial = ?", (trial,)
        ).fetchone()
        return Claim(trial, self.mapping(trial), self.last_boundary(trial), deaths)

    def _follow(self, trial: str) -> None:
        """Let `trial` go on from the first boundary of another one of its stage, if there is one.

        Where a scheduler looks at every report, it is paused until that wants another task.
        """
        source = self._stages.source(trial)
        if source is None:
            return
        self._database.execute(
            "UPDATE trials SET fork_trial = ?, fork_task = 0 WHERE trial = ?", (source, trial)
        )
        if self._keep_boundaries and self.state(trial) == "queued":
            self._set_state(trial, "paused")
        self._tell_past(trial)

    def _tell_past(self, trial: str) -> None:
        """The reports from before a fork are the fork's own as well."""
        for report in self.reports(trial):
            self._add_event("reported", trial, report=report, host=None)

    def _run_on(self, trial: str, host: str, incarnation: str, deaths: int) -> None:
        self._database.execute(
            "UPDATE trials SET state = 'running', host = ?, incarnation = ?, deaths = ? "
            "WHERE trial = ?",
            (host, incarnation, deaths, trial),
        )
        self._add_event("started", trial, host=host)

    def _set_state(self, trial: str, state: State, error: str | None = None) -> None:
        self._database.execute(
            "UPDATE trials SET state = ?, error = ? WHERE trial = ?", (state, error, trial)
        )

    def _fail(self, trial: str, error: str) -> None:
        self._set_state(trial, "failed", error)
        self._add_event("failed", trial, error=error)

    def _fork(self, trial: str) -> Boundary | None:
        row = self._database.execute(
            "SELECT fork_trial, fork_task FROM trials WHERE trial = ?", (trial,)
        ).fetchone()
        return Boundary(*row) if row and row[0] is not None else None

    def _drop_boundaries(self, trial: str, is_over: bool) -> list[str]:
        """Forget all checkpoints of `trial` but the last and those that a fork has yet to start
        from; the first of a stage others may still join, unless all `is_over`. Returns the digests
        that nothing refers to any more."""
        old = (
            "trial = ? AND task < (SELECT MAX(task) FROM payloads WHERE trial = ?) "
            "AND NOT EXISTS (SELECT 1 FROM trials AS fork WHERE fork.fork_trial = payloads.trial "
            "AND fork.fork_task = payloads.task AND NOT EXISTS "
            "(SELECT 1 FROM reports WHERE reports.trial = fork.trial))"
        )
        if not is_over:
            old += " AND NOT (task = 0 AND trial IN (SELECT trial FROM stages))"
        digests = self._column(f"SELECT DISTINCT digest FROM payloads WHERE {old}", trial, trial)
        self._database.execute(f"DELETE FROM payloads WHERE {old}", (trial, trial))
        used = "SELECT 1 FROM payloads WHERE digest = ? LIMIT 1"
        return [each for each in digests if not self._database.execute(used, (each,)).fetchone()]

    def _add_event(self, kind: str, trial: str | None, **fields: Any) -> None:
        event = json.dumps({"event": kind, "trial": trial, **fields})
        self._database.execute("INSERT INTO events (event) VALUES (?)", (event,))

    def _last_event(self) -> int:
        (place,) = self._database.execute("SELECT COALESCE(MAX(place), 0) FROM events").fetchone()
        return int(place)

    def _column(self, query: str, *values: Any) -> list[str]:
        return [row[0] for row in self._database.execute(query, values).fetchall()]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield self._database
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")


def _open(path: Path) -> sqlite3.Connection:
    """The ledger, locked until this process ends or closes it.

    One process at a time owns a sweep, so the lock is SQLite's own exclusive one: it goes with the
    process even under kill -9, and needs no shared memory, so network file systems will do.
    `synchronous` NORMAL survives the death of the process, and a power cut without damage.
    """
    database = sqlite3.connect(
        path, timeout=_LOCK_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = NORMAL"):
            database.execute(f"PRAGMA {pragma}")
        database.executescript(_SCHEMA + first_stages.SCHEMA)
    except sqlite3.OperationalError as error:
        database.close()
        if "locked" not in str(error):
            raise
        raise InputError(
            f"output_dir: {str(path.parent.parent)!r} is in use by another sweep "
            "(allowed: one at a time)"
        ) from None
    return database
