"""A client's strategy held to the others': FedProx and SCAFFOLD correct its gradients, and the
strategy does not know."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from lamina.adapters.base import Tensors
from lamina.adapters.model import AdaptedModel
from lamina.core import Batch, StepOutput, Summary
from lamina.federation.algebra.control_variates import corrected
from lamina.memory.memory import Replay
from lamina.registry import InputError
from lamina.strategies.base import Strategy


@dataclass(frozen=True)
class DriftSettings:
    """Corrections against client drift in a round."""

    name: Literal["none", "fedprox", "scaffold"] = "none"
    """`fedprox`: mu / 2 ||x - x_t||^2 is added to each loss (Li et al., 2020). `scaffold`: control
    variates stand for what the others' gradients are (Karimireddy et al., 2020, option II)."""
    mu: float = 0.01
    """The weight of FedProx' term."""

    def __post_init__(self) -> None:
        if self.mu < 0:
            raise InputError(f"federation.drift.mu: {self.mu} is negative")


@dataclass
class Corrected(Strategy):
    """A strategy with corrected gradients, as the stepper sees it."""

    inner: Strategy
    start: Tensors
    """The trained tensors, as they were when the round began."""
    mu: float = 0.0
    own: Tensors | None = None
    """The client's control variates; None without SCAFFOLD."""
    shared: Tensors | None = None
    """The server's."""

    def rate(self, name: str) -> float:
        """The strategy's."""
        return self.inner.rate(name)

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """The strategy's."""
        return self.inner.step(model, batch, replay)

    def adjust(
        self, model: AdaptedModel, gradients: Tensors, references: Sequence[Tensors]
    ) -> Tensors:
        """The strategy's g, then g - c_i + c, then g + mu (x - x_t), the gradient of FedProx'
        term."""
        found: dict[str, Tensor] = dict(self.inner.adjust(model, gradients, references))
        if self.own is not None and self.shared is not None:
            found = corrected(found, self.own, self.shared)
        if self.mu > 0:
            now = model.parameters()
            found = {
                name: g + self.mu * (now[name].detach() - self.start[name])
                for name, g in found.items()
            }
        return found

    def after_step(self, model: AdaptedModel, seen: Summary | None) -> None:
        """The strategy's."""
        self.inner.after_step(model, seen)
