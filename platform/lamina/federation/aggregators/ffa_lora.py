"""FFA-LoRA (Sun et al., 2024): A stays as it was drawn, the same for all; B is trained and
averaged.

Sent: B and whatever is no LoRA factor. Kept at the client: nothing. With A common the mean of B A
is the mean B times A, so the aggregate is exact, and noise added for privacy enters linearly. All
clients must hold the same A bit for bit: the `base` of an update says so. Heads are trained
and averaged too; whether the paper's are, we did not see.
"""

from dataclasses import dataclass
from typing import ClassVar

from lamina.federation.aggregators.base import LinearAggregator


@dataclass(frozen=True)
class FFALoRA(LinearAggregator):
    """B = sum w_i B_i / sum w_i under a frozen A."""

    exact: ClassVar[bool] = True
    phases: ClassVar[tuple[str, ...]] = ("b",)
    needs_lora: ClassVar[bool] = True
