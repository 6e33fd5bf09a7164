"""Clients by nature: a row goes to whom it belongs to (a user, a language, a room)."""

from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np
from numpy.typing import NDArray

from lamina.core import PARTS
from lamina.registry import InputError
from lamina.streams.partitioners.base import Partitioner
from lamina.streams.rows import GROUP, Rows


@dataclass(frozen=True)
class Natural(Partitioner):
    """Every value of a column of the source is a client.

    Where the job asks for fewer clients, owners are put together, the largest first and each to the
    client with the fewest training rows. Nothing is drawn.
    """

    by: str = GROUP
    """The column: `group` is the source's own groups (topics, domains); others are what the source
    says its rows belong to."""

    def natural_clients(self, rows: Rows) -> int:
        """One for each owner."""
        return len(np.unique(rows.owner(self.by)))

    def names(self, rows: Rows, num_clients: int) -> tuple[str, ...]:
        """The owners, joined where several are one client."""
        owners, client = self._clients(rows, num_clients)
        return tuple(" + ".join(owners[client == each]) for each in range(num_clients))

    def assign(
        self, rows: Rows, num_clients: int, random: np.random.Generator
    ) -> NDArray[np.int64]:
        """Raises InputError for an unknown column, and where there are more clients than owners."""
        _, client = self._clients(rows, num_clients)
        _, which = np.unique(rows.owner(self.by), return_inverse=True)
        return client[which]

    def _clients(self, rows: Rows, num_clients: int) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
        """The owners in alphabetical order, and the client of each."""
        owners, which = np.unique(rows.owner(self.by), return_inverse=True)
        if num_clients > len(owners):
            raise InputError(
                f"federation.clients: {num_clients} is more than there are owners by {self.by!r} "
                f"(allowed: 1 to {len(owners)})"
            )
        if num_clients == len(owners):
            return owners, np.arange(len(owners))
        training = rows.parts == PARTS.index("train")
        sizes = np.bincount(which[training], minlength=len(owners))
        loads = [(0, client) for client in range(num_clients)]
        heapify(loads)
        client = np.empty(len(owners), dtype=np.int64)
        for owner in np.argsort(-sizes, kind="stable"):
            load, lightest = heappop(loads)
            client[owner] = lightest
            heappush(loads, (load + int(sizes[owner]), lightest))
        return owners, client
