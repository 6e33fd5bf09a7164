"""Trials that are the same up to the end of their first task: one learns it, the others go on from
there."""

from lamina.orchestration.store.ledger import Ledger

_FRESH = (
    "trials.fork_trial IS NULL "
    "AND NOT EXISTS (SELECT 1 FROM reports WHERE reports.trial = trials.trial)"
)
"""The condition for a trial that has learned nothing and follows no other trial."""


class FirstStages:
    """Shared first stages, in the store's ledger.

    The trial that is claimed first leads. The others of its stage wait for its first boundary. If
    it fails or is stopped before, the next in the queue leads. Every method is called inside a
    transaction of the store.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def join(self, trial: str, stage: str) -> None:
        """`trial` is the same as all others of `stage` until its second task."""
        self._ledger.change("INSERT OR IGNORE INTO stages VALUES (?, ?)", trial, stage)

    def is_member(self, trial: str) -> bool:
        """Whether `trial` shares its first stage with others."""
        return self._ledger.row("SELECT 1 FROM stages WHERE trial = ?", trial) is not None

    def is_led(self, trial: str) -> bool:
        """Whether `trial` had better wait, as another of its stage is learning their first task."""
        row = self._ledger.row(
            "SELECT 1 FROM stages AS own JOIN stages AS other ON own.stage = other.stage "
            "JOIN trials ON trials.trial = other.trial "
            "WHERE own.trial = ? AND other.trial != own.trial "
            f"AND trials.state = 'running' AND {_FRESH} "
            "AND (SELECT fork_trial FROM trials WHERE trial = own.trial) IS NULL "
            "AND NOT EXISTS (SELECT 1 FROM reports WHERE trial = own.trial) LIMIT 1",
            trial,
        )
        return row is not None

    def source(self, trial: str) -> str | None:
        """Whose first boundary `trial` can go on from: it has learned nothing itself, and another
        of its stage has learned the task and has its checkpoint."""
        row = self._ledger.row(
            "SELECT other.trial FROM stages AS own JOIN stages AS other ON own.stage = other.stage "
            "JOIN reports ON reports.trial = other.trial AND reports.task = 0 "
            "JOIN trials ON trials.trial = own.trial "
            f"WHERE own.trial = ? AND other.trial != own.trial AND {_FRESH} "
            "AND NOT json_extract(reports.report, '$.done') AND EXISTS "
            "(SELECT 1 FROM payloads WHERE payloads.trial = other.trial AND payloads.task = 0) "
            "LIMIT 1",
            trial,
        )
        return row[0] if row else None

    def waiting_for(self, trial: str) -> list[str]:
        """The trials of the same stage that are queued or paused and have learned nothing."""
        return self._ledger.column(
            "SELECT trials.trial FROM stages AS own "
            "JOIN stages AS other ON own.stage = other.stage "
            "JOIN trials ON trials.trial = other.trial "
            "WHERE own.trial = ? AND other.trial != own.trial "
            f"AND trials.state IN ('queued', 'paused') AND {_FRESH} ORDER BY trials.position",
            trial,
        )
