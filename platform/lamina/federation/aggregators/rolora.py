"""RoLoRA (Chen et al., 2025): rounds alternate; one trains and averages B with A frozen, the next A
with B frozen.

Sent: the factor of the round, and whatever is no LoRA factor. Kept at the client: nothing. With the
other factor common the aggregate is exact, and a round sends half. B comes first, as A has no
gradient while B is zero. An update of the other phase, or from another frozen factor, does not mix:
its `phase` and `base` tell. Heads are trained in every round; whether the paper's are, we did not
see.
"""

from dataclasses import dataclass
from typing import ClassVar

from lamina.federation.aggregators.base import LinearAggregator


@dataclass(frozen=True)
class RoLoRA(LinearAggregator):
    """Even rounds (from 0): the mean of B; odd rounds: the mean of A."""

    exact: ClassVar[bool] = True
    phases: ClassVar[tuple[str, ...]] = ("b", "a")
    needs_lora: ClassVar[bool] = True
