"""Label skew (Hsu et al., 2019; Yurochkin et al., 2019): how much of a class each client has is
drawn from a Dirichlet distribution."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lamina.streams.partitioners.base import Partitioner, cells_of, dealt, positive
from lamina.streams.rows import Rows


@dataclass(frozen=True)
class Dirichlet(Partitioner):
    """The shares of a class among the clients are Dirichlet(alpha, ..., alpha), drawn per class and
    the same in each task and part that the class occurs in.

    A large alpha gives every client all classes; towards 0 a class has one client. Yurochkin's
    variant: sizes differ as well (Hsu et al. fix the size of a client and draw its mix of classes).
    """

    alpha: float = 0.5
    """The concentration."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("alpha", self.alpha)

    def assign(
        self, rows: Rows, num_clients: int, random: np.random.Generator
    ) -> NDArray[np.int64]:
        """Every class dealt out by its own shares."""
        cell, (labels, _, _) = cells_of(rows.labels, rows.tasks, rows.parts)
        known, which = np.unique(labels, return_inverse=True)
        shares = random.dirichlet(np.full(num_clients, self.alpha), size=len(known))
        return dealt(cell, shares[which], random)
