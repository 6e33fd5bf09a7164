"""FedAvgM (Hsu et al., 2019): momentum on the averaged difference."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lamina.federation.optimisers.base import ServerOptimiser
from lamina.registry import InputError


@dataclass(frozen=True)
class FedAvgM(ServerOptimiser):
    """m = beta m + D; x += eta m."""

    momentum: float = 0.9
    """beta."""

    moments: ClassVar[tuple[str, ...]] = ("m",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise InputError(f"server_optimiser.momentum: {self.momentum} is not in [0, 1)")

    def step(
        self, difference: Tensor, past: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """A heavy ball."""
        m = self.momentum * past[0] + difference
        return self.learning_rate * m, (m,)
