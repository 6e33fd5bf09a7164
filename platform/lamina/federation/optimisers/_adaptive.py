"""Shared by FedAdam and FedYogi: their settings and their moments."""

from dataclasses import dataclass
from typing import ClassVar

from lamina.federation.optimisers.base import ServerOptimiser
from lamina.registry import InputError


@dataclass(frozen=True)
class AdaptiveOptimiser(ServerOptimiser):
    """x += eta m / (sqrt(v) + tau): m is a moving average of D, v of D^2 in some form."""

    learning_rate: float = 1e-2
    """eta, the server's."""
    beta_1: float = 0.9
    """b1, how much of the first moment stays."""
    beta_2: float = 0.99
    """b2, how much of the second moment stays."""
    tau: float = 1e-3
    """tau, how adaptive it is: the less, the more."""

    moments: ClassVar[tuple[str, ...]] = ("m", "v")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("beta_1", "beta_2"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise InputError(f"server_optimiser.{name}: {value} is not in [0, 1)")
        if self.tau <= 0:
            raise InputError(f"server_optimiser.tau: {self.tau} is not positive")
