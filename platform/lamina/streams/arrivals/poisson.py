"""Poisson: every client has new rows at random times that do not depend on each other."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lamina.streams.arrivals.base import Arrival, positive


@dataclass(frozen=True, kw_only=True)
class Poisson(Arrival):
    """A Poisson process at each client: the times between its deliveries are exponential."""

    rate: float = 1.0
    """The mean number of deliveries of a client in a stream step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("rate", self.rate)

    def times(
        self, client: str, slots: NDArray[np.int64], joined: float, random: np.random.Generator
    ) -> NDArray[np.float64]:
        """joined + the sums of exponential times with the mean 1 / rate."""
        return joined + np.cumsum(random.exponential(1 / self.rate, len(slots)))

    def last(self, client: str, slots: NDArray[np.int64]) -> float:
        """A mean time for each delivery."""
        return len(slots) / self.rate
