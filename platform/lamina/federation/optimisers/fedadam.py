"""FedAdam (Reddi et al., 2021): Adam on the averaged difference, as in the paper (algorithm 2)
without bias correction.

Flower's FedAdam corrects the bias, so its numbers differ from these. v starts at zero; the paper
lets it start at tau^2 or more.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lamina.federation.optimisers._adaptive import check_adaptive
from lamina.federation.optimisers.base import ServerOptimiser


@dataclass(frozen=True)
class FedAdam(ServerOptimiser):
    """m = b1 m + (1 - b1) D; v = b2 v + (1 - b2) D^2; x += eta m / (sqrt(v) + tau)."""

    learning_rate: float = 1e-2
    """eta, the server's."""
    beta_1: float = 0.9
    """b1."""
    beta_2: float = 0.99
    """b2."""
    tau: float = 1e-3
    """tau, how adaptive it is: the less, the more."""

    moments: ClassVar[tuple[str, ...]] = ("m", "v")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_adaptive(self.beta_1, self.beta_2, self.tau)

    def step(
        self, difference: Tensor, past: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Adam."""
        m = self.beta_1 * past[0] + (1 - self.beta_1) * difference
        v = self.beta_2 * past[1] + (1 - self.beta_2) * difference.square()
        return self.learning_rate * m / (v.sqrt() + self.tau), (m, v)
