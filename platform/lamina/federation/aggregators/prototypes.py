"""Prototypes (after FedProto, Tan et al., 2022): nothing is trained; class means, Gram matrices and
whatever else a strategy sums travel alone, once per task.

Sent: the strategy's summaries, which `lamina.federation.server.summaries` adds. Kept at the client:
nothing. For strategies on a frozen backbone (SimpleCIL, RanPAC, FeCAM ...) the result is that of
all rows in one place, whatever client holds which. Differs from the paper: features are the
backbone's, so prototypes need no regulariser and are sums, not means of means.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from lamina.federation.aggregators.base import LinearAggregator
from lamina.federation.state import GlobalState
from lamina.federation.update import ClientUpdate


@dataclass(frozen=True)
class Prototypes(LinearAggregator):
    """The global tensors stay; the summaries add."""

    exact: ClassVar[bool] = True
    mixed_ranks: ClassVar[bool] = True

    def trains(self, round: int, name: str) -> bool:
        """Nothing."""
        return False

    def combine(self, state: GlobalState, updates: Sequence[ClientUpdate]) -> GlobalState:
        """The state as it was: nothing is aggregated."""
        return state
