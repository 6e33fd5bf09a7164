"""Median (Yin et al., 2018): every coordinate is the median of the clients'.

Sent: all that is trained. Kept at the client: nothing. Half the clients, less one, may send
anything. Clients count equally. Of an even number it is the mean of the two in the middle. The
median of LoRA factors is meant for clients that started from the same factors; it is no median of
their products.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from lamina.federation.aggregators.base import Aggregator, Weighting, refuse_weights
from lamina.federation.algebra.robust import robust_mean
from lamina.federation.state import GlobalState
from lamina.federation.update import ClientUpdate


@dataclass(frozen=True)
class Median(Aggregator):
    """x = median_i x_i, coordinate by coordinate."""

    weighting: Weighting = "equal"
    """A median counts clients."""

    robust: ClassVar[bool] = True

    def __post_init__(self) -> None:
        refuse_weights(self)

    def combine(self, state: GlobalState, updates: Sequence[ClientUpdate]) -> GlobalState:
        """All but the one or two in the middle are cut."""
        sent = [update.tensors for update in updates]
        means = robust_mean(sent, state.tensors, lambda count: (count - 1) // 2)
        return replace(state, tensors={**state.tensors, **means})
