"""A server optimiser takes a step along the averaged difference, which stands for a gradient. Plain
averaging is no optimiser: it takes the average itself."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lamina.federation.algebra.rows import added, common, extended
from lamina.federation.state import GlobalState
from lamina.registry import InputError


@dataclass(frozen=True)
class ServerOptimiser(ABC):
    """Settings of a rule; its moments are in the state's `optimiser_state`."""

    learning_rate: float = 1.0
    """eta, the server's."""

    moments: ClassVar[tuple[str, ...]]
    """The names of the moments that it keeps of every tensor."""

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise InputError(f"server_optimiser.learning_rate: {self.learning_rate} <= 0")

    def apply(self, before: GlobalState, after: GlobalState) -> GlobalState:
        """The state after a step from `before` along D = after - before, an aggregation's.

        A tensor that nobody sent is the same object in both, and stays: a factor that was frozen
        in the round must not be carried on by its momentum. Rows that are new are taken as they
        are.
        """
        tensors, moments = dict(after.tensors), dict(before.optimiser_state)
        for name, x in before.tensors.items():
            if after.tensors[name] is x:
                continue
            towards, start = common(after.tensors[name].double(), x.double())
            zeros = torch.zeros_like(towards)
            past = tuple(
                added(zeros, moments.get(f"{moment}:{name}", zeros)) for moment in self.moments
            )
            change, kept = self.step(towards - start, past)
            tensors[name] = extended((start + change).to(x.dtype), after.tensors[name])
            for moment, each in zip(self.moments, kept, strict=True):
                moments[f"{moment}:{name}"] = each
        return replace(after, tensors=tensors, optimiser_state=moments)

    @abstractmethod
    def step(
        self, difference: Tensor, past: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The change of a tensor and its new moments, from the averaged difference and the moments
        before (zero at first), all float64 of one shape."""
