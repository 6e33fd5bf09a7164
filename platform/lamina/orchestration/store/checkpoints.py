"""The checkpoints of all trials, at task boundaries: which pieces they have, and how long they are
kept."""

from collections.abc import Mapping, Sequence

from lamina.orchestration.payloads import Payloads
from lamina.orchestration.store.ledger import Ledger
from lamina.orchestration.store.records import Boundary
from lamina.registry import InputError

_MIDWAY = "midway/"
"""Before the names of the pieces of a checkpoint that is not at the end of its task."""


class Checkpoints:
    """The ledger says which payloads a checkpoint is made of. A payload's file is on disk before
    the ledger names it, and is deleted after the ledger does not any more."""

    def __init__(self, ledger: Ledger, payloads: Payloads, keeps_all: bool) -> None:
        """`keeps_all`: every checkpoint is kept until the sweep is over, so that trials can be
        forked anywhere; otherwise the last of each trial, and the one before for where a file of
        that is damaged."""
        self._ledger = ledger
        self._payloads = payloads
        self._keeps_all = keeps_all
        payloads.keep_only(ledger.column("SELECT DISTINCT digest FROM payloads"))

    def write(self, pieces: Mapping[str, bytes]) -> dict[str, str]:
        """Write the bytes of each piece. Returns the digests that name them."""
        return dict(zip(pieces, self._payloads.put_all(list(pieces.values())), strict=True))

    def add(self, boundary: Boundary, digests: Mapping[str, str]) -> None:
        """The checkpoint at `boundary` is made of what `write` wrote."""
        for piece, digest in digests.items():
            self._ledger.change(
                "INSERT INTO payloads VALUES (?, ?, ?, ?)",
                boundary.trial,
                boundary.task,
                piece,
                digest,
            )

    def at(self, boundary: Boundary) -> dict[str, str]:
        """The digest of each piece of the checkpoint at `boundary` (its replay memory and adapters
        among them); empty where it is kept no more."""
        return dict(
            self._ledger.rows(
                "SELECT part, digest FROM payloads WHERE trial = ? AND task = ? ORDER BY part",
                boundary.trial,
                boundary.task,
            )
        )

    def read(self, digests: Mapping[str, str]) -> dict[str, bytes]:
        """The bytes of each piece. Raises InputError when there is none, or a file is missing or
        damaged."""
        if not digests:
            raise InputError("its checkpoint is kept no more")
        return {piece: self._payloads.get(digest) for piece, digest in digests.items()}

    def drop(self, boundary: Boundary) -> None:
        """Forget a checkpoint that cannot be used. Its files stay until the store is opened
        again."""
        self._ledger.change(
            "DELETE FROM payloads WHERE trial = ? AND task = ?", boundary.trial, boundary.task
        )

    def midway(self, trial: str) -> dict[str, str]:
        """The digest of each piece of the checkpoint within the task that `trial` is learning;
        empty where there is none."""
        rows = self._ledger.rows(
            "SELECT part, digest FROM payloads WHERE trial = ? AND part LIKE ? ORDER BY part",
            trial,
            f"{_MIDWAY}%",
        )
        return {piece.removeprefix(_MIDWAY): digest for piece, digest in rows}

    def keep_midway(self, under_way: Boundary, digests: Mapping[str, str]) -> list[str]:
        """Keep a checkpoint within the task `under_way` of a trial, in the place of the one before.
        Returns the digests that nothing refers to any more, as `forget_midway` does."""
        unused = self.forget_midway(under_way.trial)
        self.add(under_way, {f"{_MIDWAY}{piece}": each for piece, each in digests.items()})
        return [each for each in unused if each not in digests.values()]

    def forget_midway(self, trial: str) -> list[str]:
        """Forget the checkpoint within a task of `trial`. Returns the digests that nothing refers
        to any more, to be deleted once this is committed."""
        own = "trial = ? AND part LIKE ?"
        digests = self._ledger.column(
            f"SELECT digest FROM payloads WHERE {own}", trial, f"{_MIDWAY}%"
        )
        self._ledger.change(f"DELETE FROM payloads WHERE {own}", trial, f"{_MIDWAY}%")
        return self._unused(digests)

    def forget_before_last(self, trial: str) -> list[str]:
        """Forget the checkpoints of `trial` that nobody can need while the sweep runs. Returns the
        digests that nothing refers to any more, to be deleted once this is committed."""
        return [] if self._keeps_all else self._forget(trial, is_over=False)

    def delete(self, digests: Sequence[str]) -> None:
        """Delete the files of what is forgotten."""
        self._payloads.delete(digests)

    def tidy(self) -> None:
        """Keep only the last checkpoint of every trial that has finished, the last two of others,
        and those that a fork has yet to start from: the sweep is over."""
        with self._ledger.transaction():
            unused = [
                digest
                for trial in self._ledger.column("SELECT DISTINCT trial FROM payloads")
                for digest in self._forget(trial, is_over=True)
            ]
        self.delete(unused)

    def _forget(self, trial: str, is_over: bool) -> list[str]:
        """Forget all checkpoints of `trial` but the last two (one, where it has finished) and those
        that a fork has yet to start from; the first of a stage others may still join, unless all
        `is_over`."""
        has_finished = self._ledger.row(
            "SELECT 1 FROM trials WHERE trial = ? AND state = 'finished'", trial
        )
        old = (
            "trial = ? AND task NOT IN (SELECT DISTINCT task FROM payloads WHERE trial = ? "
            f"ORDER BY task DESC LIMIT {1 if has_finished else 2}) "
            "AND NOT EXISTS (SELECT 1 FROM trials AS fork WHERE fork.fork_trial = payloads.trial "
            "AND fork.fork_task = payloads.task AND NOT EXISTS "
            "(SELECT 1 FROM reports WHERE reports.trial = fork.trial))"
        )
        if not is_over:
            old += " AND NOT (task = 0 AND trial IN (SELECT trial FROM stages))"
        digests = self._ledger.column(
            f"SELECT DISTINCT digest FROM payloads WHERE {old}", trial, trial
        )
        self._ledger.change(f"DELETE FROM payloads WHERE {old}", trial, trial)
        return self._unused(digests)

    def _unused(self, digests: Sequence[str]) -> list[str]:
        used = "SELECT 1 FROM payloads WHERE digest = ? LIMIT 1"
        return [each for each in digests if self._ledger.row(used, each) is None]
