"""Starting points: where a claimed trial goes on, and where it goes on if that checkpoint is
damaged."""

from lamina.orchestration.store.checkpoints import Checkpoints
from lamina.orchestration.store.first_stages import FirstStages
from lamina.orchestration.store.ledger import Ledger
from lamina.orchestration.store.queries import Queries


class StartingPoints:
    """Finds starting points in the ledger. It reads no file: the caller that does so finds damage,
    and reports it."""

    def __init__(
        self, ledger: Ledger, queries: Queries, checkpoints: Checkpoints, stages: FirstStages
    ) -> None:
        self._ledger = ledger
        self._queries = queries
        self._checkpoints = checkpoints
        self._stages = stages

    def start(self, trial: str) -> dict[str, str] | None:
        """The digests of what `trial` goes on from, by piece: within its task, where it was kept
        there, or at its last boundary; None: it begins."""
        if midway := self._checkpoints.midway(trial):
            return midway
        boundary = self._queries.last_boundary(trial)
        return None if boundary is None else self._checkpoints.at(boundary)

    def set_back(self, trial: str, damage: str) -> bool:
        """What `start` names cannot be used: take `trial` back to the boundary before, or to its
        beginning. Returns whether there is one: a fork of another trial has none of its own."""
        with self._ledger.transaction():
            if self._checkpoints.midway(trial):
                # Its files stay until the store is opened again, as those of `drop` do.
                self._checkpoints.forget_midway(trial)
            elif not self._drop_last_boundary(trial):
                return False
            left = self._queries.last_boundary(trial)
            task = -1 if left is None else left.task
            self._ledger.add_event("set_back", trial, damage=damage, task=task)
        return True

    def _drop_last_boundary(self, trial: str) -> bool:
        start = self._queries.last_boundary(trial)
        assert start is not None, "what cannot be used is there"
        self._checkpoints.drop(start)
        if start.trial == trial:
            self._ledger.change(
                "DELETE FROM reports WHERE trial = ? AND task = ?", trial, start.task
            )
        elif self._stages.is_member(trial):
            self._ledger.change(
                "UPDATE trials SET fork_trial = NULL, fork_task = NULL WHERE trial = ?", trial
            )
        else:
            return False
        return True
