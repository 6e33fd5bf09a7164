"""In step: all clients get their k-th task at time k."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lamina.streams.arrivals.base import Arrival


@dataclass(frozen=True, kw_only=True)
class InStep(Arrival):
    """One clock for all. A client without rows of a task has nothing new in that step; one that
    joins late has missed the steps before."""

    def times(
        self, client: str, slots: NDArray[np.int64], joined: float, random: np.random.Generator
    ) -> NDArray[np.float64]:
        """Piece p of P of the k-th task comes at k + p / P."""
        return slots / self.pieces

    def last(self, client: str, slots: NDArray[np.int64]) -> float:
        """When its last rows come."""
        return float(slots[-1] / self.pieces)
