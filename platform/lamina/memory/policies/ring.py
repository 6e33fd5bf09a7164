"""Ring memory (Lopez-Paz and Ranzato, 2017; Chaudhry et al., 2019): the most recent rows of every
class."""

from dataclasses import dataclass

from torch import Tensor

from lamina.memory.base import Policy, rank_in_class


@dataclass(frozen=True)
class Ring(Policy):
    """A first-in-first-out queue per class. The published one divides its size by a number of
    classes that is known in advance; here the queues shrink as classes appear.
    """

    def priority(self, labels: Tensor, keys: Tensor, arrival: Tensor) -> Tensor:
        """The age of a row within its class. The order among equals is random."""
        return rank_in_class(labels, -arrival) + keys
