"""Quantity skew: some clients have many rows and some few, of the same mix."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lamina.registry import unknown
from lamina.streams.partitioners.base import Partitioner, cells_of, dealt, positive
from lamina.streams.rows import Rows

Law = Literal["dirichlet", "power"]


@dataclass(frozen=True)
class Quantity(Partitioner):
    """The sizes of the clients follow a law; every client has its share of each task and part."""

    law: Law = "dirichlet"
    """dirichlet: shares are Dirichlet(alpha, ..., alpha) (Li et al., 2022); power: the k-th largest
    client, in random order, has a share in proportion to k^-alpha."""
    alpha: float = 1.0
    """The concentration (small: uneven) or the exponent (large: uneven)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("alpha", self.alpha)
        if self.law not in get_args(Law):
            raise unknown("federation.partition.law", self.law, get_args(Law))

    def assign(
        self, rows: Rows, num_clients: int, random: np.random.Generator
    ) -> NDArray[np.int64]:
        """One draw of shares for all."""
        if self.law == "dirichlet":
            shares = random.dirichlet(np.full(num_clients, self.alpha))
        else:
            shares = random.permutation(np.arange(1, num_clients + 1) ** -self.alpha)
            shares /= shares.sum()
        cell, (tasks, _) = cells_of(rows.tasks, rows.parts)
        return dealt(cell, np.broadcast_to(shares, (len(tasks), num_clients)), random)
