"""Trimmed mean (Yin et al., 2018): every coordinate is the mean of the clients' without a share of
the smallest and as many of the largest.

Sent: all that is trained. Kept at the client: nothing. Fewer than `trim` of the clients may send
anything. Clients count equally. On LoRA factors it is meant for clients that started from the same
factors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from lamina.federation.aggregators.base import Aggregator, Weighting, refuse_weights
from lamina.federation.algebra.robust import robust_mean
from lamina.federation.state import GlobalState
from lamina.federation.update import ClientUpdate
from lamina.registry import InputError


@dataclass(frozen=True)
class TrimmedMean(Aggregator):
    """x = mean of the n - 2 floor(trim n) values in the middle, coordinate by coordinate."""

    weighting: Weighting = "equal"
    """A trimmed mean counts clients."""
    trim: float = 0.1
    """beta, the share of clients cut at either end."""

    robust: ClassVar[bool] = True

    def __post_init__(self) -> None:
        refuse_weights(self)
        if not 0 <= self.trim < 0.5:
            raise InputError(f"aggregator.trim: {self.trim} is not in [0, 0.5)")

    def combine(self, state: GlobalState, updates: Sequence[ClientUpdate]) -> GlobalState:
        """Sort, cut, average."""
        sent = [update.tensors for update in updates]
        means = robust_mean(
            sent, state.tensors, lambda count: (self.trim * count).floor().to(count.dtype)
        )
        return replace(state, tensors={**state.tensors, **means})
