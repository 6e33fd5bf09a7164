"""Periodic: every client has new rows at intervals of its own."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lamina.registry import InputError
from lamina.streams.arrivals.base import Arrival, positive


@dataclass(frozen=True, kw_only=True)
class Periodic(Arrival):
    """A client draws its period once, and when in its first period it starts."""

    period: float = 1.0
    """The mean time between two deliveries of a client, in stream steps."""
    spread: float = 0.0
    """Periods are drawn evenly between (1 - spread) and (1 + spread) times the mean."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("period", self.period)
        if not 0 <= self.spread < 1:
            raise InputError(
                f"federation.arrival.spread: {self.spread!r} is not allowed "
                "(allowed: 0 or more, below 1)"
            )

    def times(
        self, client: str, slots: NDArray[np.int64], joined: float, random: np.random.Generator
    ) -> NDArray[np.float64]:
        """joined + (u + k) times the client's period, u drawn evenly in [0, 1)."""
        period = self.period * random.uniform(1 - self.spread, 1 + self.spread)
        deliveries = np.arange(len(slots), dtype=np.float64)
        return joined + period * (random.random() + deliveries)

    def last(self, client: str, slots: NDArray[np.int64]) -> float:
        """A mean period for each delivery."""
        return self.period * len(slots)
