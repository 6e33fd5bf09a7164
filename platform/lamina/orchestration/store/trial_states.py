"""The states of trials in the ledger, and the one place that changes them."""

from typing import Any

from lamina.orchestration.store.ledger import Ledger
from lamina.orchestration.store.queries import Queries
from lamina.orchestration.store.transitions import Request, transition


class TrialStates:
    """Applies the table of `transitions.py`: sets the new state of a trial, and adds the event.
    Every method is called inside a transaction."""

    def __init__(self, ledger: Ledger, queries: Queries) -> None:
        self._ledger = ledger
        self._queries = queries

    def apply(
        self,
        trial: str,
        request: Request,
        *,
        host: str | None = None,
        incarnation: str | None = None,
        deaths: int | None = None,
        error: str | None = None,
        **fields: Any,
    ) -> bool:
        """Apply the transition of the table. Returns whether there is one.

        A trial has a host while it is running, and an error once it has failed. `deaths` None: the
        deaths so far, or 0 when the trial is queued by request. `fields` go into the event.
        """
        before = self._queries.state(trial)
        found = transition(before, request) if before is not None else None
        if found is None:
            return False
        if found.event == "known" and self._is_announced(trial):
            return False
        if deaths is None:
            deaths = 0 if found.event == "submitted" else self.deaths(trial)
        self._ledger.change(
            "UPDATE trials SET state = ?, host = ?, incarnation = ?, deaths = ?, error = ?, "
            "is_announced = ? WHERE trial = ?",
            found.state,
            host,
            incarnation,
            deaths,
            error,
            found.state == "finished",
            trial,
        )
        if found.event is not None:
            self._ledger.add_event(
                found.event, trial, **self._facts_of(found.event, trial), **fields
            )
        return True

    def deaths(self, trial: str) -> int:
        """How often the host of `trial` died while the trial was there on its present task."""
        row = self._ledger.row("SELECT deaths FROM trials WHERE trial = ?", trial)
        return int(row[0]) if row else 0

    def _facts_of(self, event: str, trial: str) -> dict[str, Any]:
        """The fields of an event of this kind that describe its trial."""
        queries = self._queries
        match event:
            case "submitted":
                return {"name": queries.name(trial), "mapping": queries.mapping(trial)}
            case "known":
                return {"name": queries.name(trial), "reports": queries.reports(trial)}
            case "started":
                return {"host": queries.host(trial)}
            case "failed":
                return {"error": queries.error(trial)}
        return {}

    def _is_announced(self, trial: str) -> bool:
        """Whether this session has said before that `trial` has finished."""
        query = "SELECT 1 FROM trials WHERE trial = ? AND is_announced"
        return self._ledger.row(query, trial) is not None
