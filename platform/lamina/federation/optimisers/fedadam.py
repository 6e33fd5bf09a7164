"""FedAdam (Reddi et al., 2021): Adam on the averaged difference, as in the paper (algorithm 2)
without bias correction.

Flower's FedAdam corrects the bias, so its numbers differ from these. v starts at zero; the paper
lets it start at tau^2 or more.
"""

from dataclasses import dataclass

from torch import Tensor

from lamina.federation.optimisers._adaptive import AdaptiveOptimiser


@dataclass(frozen=True)
class FedAdam(AdaptiveOptimiser):
    """m = b1 m + (1 - b1) D; v = b2 v + (1 - b2) D^2; x += eta m / (sqrt(v) + tau)."""

    def step(
        self, difference: Tensor, past: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Adam."""
        m = self.beta_1 * past[0] + (1 - self.beta_1) * difference
        v = self.beta_2 * past[1] + (1 - self.beta_2) * difference.square()
        return self.learning_rate * m / (v.sqrt() + self.tau), (m, v)
