"""When class statistics may leave a client: sums over very few rows tell of these rows."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class ReleaseRule:
    """Which sums per class a client may send, and how exactly."""

    min_rows: int = 10
    """A class with fewer rows is sent as if it had none. A rule of thumb against reading single
    rows off; it is no differential privacy."""
    noise_multiplier: float = 0.0
    """z; above 0, sums and counts get noise, and the rows of a class are hidden in the sense of
    `Accountant`."""
    clip: float = 1.0
    """C, the largest L2 norm of what one row adds to all sums together; only with noise."""


def released_sums(
    sums: Tensors, rule: ReleaseRule, seed: int, *names: str | int, count: str = "count"
) -> dict[str, Tensor]:
    """Sums per class [C, ...] of a `Summary` (`class_sums`, `moments`) as they may be sent; `count`
    names the numbers of rows [C]."""
    raise NotImplementedError
