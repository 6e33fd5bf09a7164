"""The store's database: one SQLite file with one schema, whose changes wake whoever waits."""

import errno
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lamina.registry import InputError

_FAULTS = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_READONLY: errno.EROFS,
}
"""Faults of a disk: the system's error number for each error code of SQLite."""
VERSION = 3
"""The version of the schema. It goes up with every change of the tables."""

_SCHEMA = f"""
BEGIN;
CREATE TABLE trials (
    trial TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    mapping TEXT NOT NULL,
    position INTEGER NOT NULL,
    state TEXT NOT NULL,
    fork_trial TEXT,
    fork_task INTEGER,
    host TEXT,
    incarnation TEXT,
    deaths INTEGER NOT NULL DEFAULT 0,
    error TEXT,
    ahead INTEGER,
    hold TEXT CHECK (hold IN ('stop', 'pause')),
    settings TEXT,
    is_announced INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE stages (trial TEXT PRIMARY KEY, stage TEXT NOT NULL);
CREATE INDEX stages_by_stage ON stages (stage);
CREATE TABLE reports (
    trial TEXT NOT NULL, task INTEGER NOT NULL, report TEXT NOT NULL, PRIMARY KEY (trial, task)
);
CREATE TABLE payloads (
    trial TEXT NOT NULL, task INTEGER NOT NULL, part TEXT NOT NULL, digest TEXT NOT NULL,
    PRIMARY KEY (trial, task, part)
);
CREATE INDEX payloads_by_digest ON payloads (digest);
CREATE TABLE events (number INTEGER PRIMARY KEY AUTOINCREMENT, event TEXT NOT NULL);
CREATE TABLE configurations (
    config TEXT PRIMARY KEY, name TEXT NOT NULL, mapping TEXT, stage TEXT, error TEXT
);
CREATE TABLE hosts (host TEXT PRIMARY KEY, is_here INTEGER NOT NULL);
CREATE TABLE answers (request TEXT PRIMARY KEY, answer TEXT NOT NULL);
CREATE TABLE notes (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE sweep (
    run TEXT,
    recorded INTEGER NOT NULL DEFAULT 0,
    session TEXT,
    first_event INTEGER NOT NULL DEFAULT 0,
    is_idle INTEGER NOT NULL DEFAULT 0,
    is_closing INTEGER NOT NULL DEFAULT 0,
    abandoned TEXT,
    status TEXT
);
INSERT INTO sweep DEFAULT VALUES;
PRAGMA user_version = {VERSION};
COMMIT;
"""
"""Columns that need a word:

trials.position: the order of the queue. trials.ahead: how many tasks are learned before Ray Tune
has come to the trial. trials.hold: what a person has asked for, and still holds. trials.settings:
a person wants this trial trained, whoever else does; what they changed, as JSON.
trials.is_announced: this session has said that the trial has finished.
payloads.part: the name of a piece of a checkpoint (`memory`, an adapter, `rest` ...), which has
nothing to do with the parts of a stream; `midway/` stands before it where the checkpoint is within
its task.
hosts: those of this session; `is_here` is 0 for those that have left.
answers: what was answered to a request of this session, as JSON.
notes: what the scheduler wants to find again, in its own words.
sweep: one row (see `sweep_record.SweepRecord`)."""


class Ledger:
    """The open database. Every change of it is made within `transaction`."""

    def __init__(self, path: Path, output_dir: Path, lock_seconds: float) -> None:
        """Open the ledger, or begin one. `output_dir` is how errors call its sweep; for
        `lock_seconds` it waits where another process has the ledger open.

        Raises InputError when it stays open there, or is damaged, or of another version.
        """
        self._path = path
        self._database = _open(path, repr(str(output_dir)), lock_seconds)
        self._depth = 0
        self.on_change: Callable[[], None] = lambda: None
        """Called after each transaction that changed something."""
        self.on_fault: Callable[[OSError], None] = lambda _: None
        """Called where the disk did not take a transaction, before that raises the same error."""

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes inside are committed together, or none of them. Nested transactions are one.
        Raises OSError where the disk does not take it."""
        if self._depth:
            yield
            return
        before = self._database.total_changes
        try:
            with self._one_transaction():
                yield
        except sqlite3.OperationalError as error:
            number = _FAULTS.get(error.sqlite_errorcode & 0xFF)
            if number is None:
                raise
            fault = OSError(number, str(error), str(self._path))
            self.on_fault(fault)
            raise fault from error
        if self._database.total_changes != before:
            self.on_change()

    @contextmanager
    def _one_transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        self._depth += 1
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            # Some faults of the disk have ended the transaction already.
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise
        finally:
            self._depth -= 1

    def change(self, statement: str, *values: Any) -> int:
        """Execute a statement. Returns how many rows it changed."""
        assert self._depth, "a change outside of a transaction"
        return self._database.execute(statement, values).rowcount

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """All rows that a query finds."""
        return self._database.execute(query, values).fetchall()

    def row(self, query: str, *values: Any) -> tuple[Any, ...] | None:
        """The first row that a query finds."""
        found: tuple[Any, ...] | None = self._database.execute(query, values).fetchone()
        return found

    def column(self, query: str, *values: Any) -> list[str]:
        """The first value of each row that a query finds."""
        return [row[0] for row in self.rows(query, *values)]

    def add_event(self, kind: str, trial: str | None = None, **fields: Any) -> None:
        """Record that something happened, to a trial or (None) to none."""
        event = json.dumps({"event": kind, "trial": trial, **fields})
        with self.transaction():
            self.change("INSERT INTO events (event) VALUES (?)", event)

    def once(self, request: str, do: Callable[[], Any]) -> Any:
        """Idempotency: the result of `do`, as JSON. Where a `request` is made again because its
        answer was lost, the result of the first time."""
        with self.transaction():
            found = self.row("SELECT answer FROM answers WHERE request = ?", request)
            if found is not None:
                return json.loads(found[0])
            answer = json.dumps(do())
            self.change("INSERT INTO answers VALUES (?, ?)", request, answer)
            return json.loads(answer)

    def last_event(self) -> int:
        """The number of the newest event; 0 if there is none."""
        found = self.row("SELECT COALESCE(MAX(number), 0) FROM events")
        assert found is not None
        return int(found[0])

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()


def _open(path: Path, shown: str, lock_seconds: float) -> sqlite3.Connection:
    """The database, locked until this process ends or closes it.

    One process at a time owns a sweep, so the lock is SQLite's own exclusive one: it goes with the
    process even under kill -9, and needs no shared memory, so network file systems will do.
    `synchronous` FULL: what is committed survives a power cut.
    """
    is_missing = not path.exists()
    database = sqlite3.connect(
        path, timeout=lock_seconds, isolation_level=None, check_same_thread=False
    )
    try:
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL"):
            database.execute(f"PRAGMA {pragma}")
        (num_tables,) = database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        if num_tables == 0:
            if not is_missing and _has_payloads(path.parent):
                raise sqlite3.DatabaseError("the file is empty")
            database.executescript(_SCHEMA)
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version != VERSION:
            raise InputError(
                f"output_dir: the ledger in {shown} has the format {version} of another version of "
                f"Lamina (allowed: {VERSION}; use a new folder, or the version that wrote it)"
            )
        (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
    except InputError:
        database.close()
        raise
    except sqlite3.DatabaseError as error:
        database.close()
        if "locked" in str(error):
            raise InputError(
                f"output_dir: {shown} is in use by another sweep (allowed: one at a time)"
            ) from None
        if isinstance(error, sqlite3.OperationalError):
            raise
        reason = " ".join(str(error).split())
        raise InputError(
            f"output_dir: store/{path.name} in {shown} is damaged: {reason} (allowed: the file as "
            "it was written; to train everything again, a new folder)"
        ) from None
    return database


def _has_payloads(folder: Path) -> bool:
    """Whether a sweep has been here: its ledger cannot be empty then."""
    return any((folder / "payloads").glob("*.safetensors"))
