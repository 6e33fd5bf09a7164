"""Domain shift: every client is at home in one domain and sees little of the others."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lamina.registry import InputError
from lamina.streams.partitioners.base import Partitioner, cells_of, dealt
from lamina.streams.rows import GROUP, Rows


@dataclass(frozen=True)
class Domain(Partitioner):
    """Of the rows of a domain a share goes evenly to the clients at home there, and the rest evenly
    to all. Homes are dealt out in random order; where there are fewer clients than domains, a
    client is at home in several.
    """

    by: str = GROUP
    """The column of domains, as in `natural`."""
    share: float = 0.8
    """What stays at home: 1 gives a client nothing but its domain, 0 is even."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.share <= 1:
            raise InputError(
                f"federation.partition.share: {self.share!r} is no share (allowed: 0 to 1)"
            )

    def assign(
        self, rows: Rows, num_clients: int, random: np.random.Generator
    ) -> NDArray[np.int64]:
        """Raises InputError for an unknown column."""
        names, domain = np.unique(rows.owner(self.by), return_inverse=True)
        at_home = np.zeros((len(names), num_clients))
        places = np.arange(max(len(names), num_clients))
        homes, clients = random.permutation(len(names)), random.permutation(num_clients)
        at_home[homes[places % len(names)], clients[places % num_clients]] = 1
        at_home /= at_home.sum(axis=1, keepdims=True)
        shares = self.share * at_home + (1 - self.share) / num_clients
        cell, (domains, _, _) = cells_of(domain, rows.tasks, rows.parts)
        return dealt(cell, shares[domains], random)
