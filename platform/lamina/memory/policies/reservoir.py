"""Reservoir sampling (Vitter, 1985): at any time a uniform sample of every row ever offered."""

from dataclasses import dataclass

from torch import Tensor

from lamina.memory.base import Policy


@dataclass(frozen=True)
class Reservoir(Policy):
    """Keeps the rows with the smallest random keys, which is the same as replacing a random slot
    row by row."""

    def priority(self, labels: Tensor, keys: Tensor, arrival: Tensor) -> Tensor:
        """The random key alone."""
        return keys
