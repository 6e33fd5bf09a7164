"""FedYogi (Reddi et al., 2021): FedAdam whose second moment moves by additive steps; no bias
correction, as in the paper (algorithm 2)."""

from dataclasses import dataclass

from torch import Tensor

from lamina.federation.optimisers._adaptive import AdaptiveOptimiser


@dataclass(frozen=True)
class FedYogi(AdaptiveOptimiser):
    """m = b1 m + (1 - b1) D; v -= (1 - b2) D^2 sign(v - D^2); x += eta m / (sqrt(v) + tau)."""

    def step(
        self, difference: Tensor, past: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Yogi."""
        square = difference.square()
        m = self.beta_1 * past[0] + (1 - self.beta_1) * difference
        v = past[1] - (1 - self.beta_2) * square * (past[1] - square).sign()
        return self.learning_rate * m / (v.sqrt() + self.tau), (m, v)
