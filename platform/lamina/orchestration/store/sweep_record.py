"""What the store knows of the sweep as a whole, and of the session that runs it."""

from dataclasses import dataclass, fields
from typing import Any

from lamina.orchestration.store.ledger import Ledger


@dataclass(frozen=True)
class SweepRecord:
    """One row of the ledger. A session is the time of one driver: what follows `session` is
    forgotten when the next one begins."""

    run: str | None
    """The tracker's key of the sweep's run, in every session."""
    recorded: int
    """The number of the last event that the tracker has recorded for good."""
    session: str | None
    first_event: int
    """The number of the last event before the session."""
    is_idle: bool
    """Nothing was left to train when it began, so there are no hosts."""
    is_closing: bool
    """No more trials are handed out."""
    abandoned: str | None
    """Why no host is left."""
    status: str | None
    """How the sweep has ended."""


_COLUMNS = tuple(each.name for each in fields(SweepRecord))


def read_sweep(ledger: Ledger) -> SweepRecord:
    """The record of the sweep."""
    found = ledger.row(f"SELECT {', '.join(_COLUMNS)} FROM sweep")
    assert found is not None, "the schema comes with its row"
    values = dict(zip(_COLUMNS, found, strict=True))
    flags = {name: bool(values[name]) for name in ("is_idle", "is_closing")}
    return SweepRecord(**{**values, **flags})


def change_sweep(ledger: Ledger, **columns: Any) -> None:
    """Set some columns of the record."""
    assert set(columns) <= set(_COLUMNS)
    with ledger.transaction():
        assigned = ", ".join(f"{name} = ?" for name in columns)
        ledger.change(f"UPDATE sweep SET {assigned}", *columns.values())


def begin_session(ledger: Ledger, session: str) -> bool:
    """Make `session` the current one. Returns whether it was not."""
    if read_sweep(ledger).session == session:
        return False
    with ledger.transaction():
        change_sweep(
            ledger,
            session=session,
            first_event=ledger.last_event(),
            is_idle=False,
            is_closing=False,
            abandoned=None,
            status=None,
        )
        ledger.change("DELETE FROM hosts")
        ledger.change("DELETE FROM answers")
        ledger.change("DELETE FROM configurations")
        ledger.change("UPDATE trials SET ahead = NULL, is_announced = 0")
    return True
