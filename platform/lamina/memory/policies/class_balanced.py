"""Class-balanced memory (Prabhu et al., 2020, GDumb's sampler): as many exemplars of one class as
of another."""

from dataclasses import dataclass

from torch import Tensor

from lamina.memory.base import Policy, rank_in_class


@dataclass(frozen=True)
class ClassBalanced(Policy):
    """Takes one random row of every class, then a second of every class, until it is full."""

    def priority(self, labels: Tensor, keys: Tensor, arrival: Tensor) -> Tensor:
        """The round in which a row is taken from its class. The order within the last round is
        random."""
        return rank_in_class(labels, keys) + keys
