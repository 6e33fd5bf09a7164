"""Updates as whole numbers, which masks can hide and which add without rounding."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lamina.core import generator_of
from lamina.registry import InputError

Tensors = Mapping[str, Tensor]
Words = NDArray[np.uint32]
"""Numbers modulo 2^32."""
MODULUS = 2**32


@dataclass(frozen=True)
class Quantiser:
    """Numbers in [-limit, limit] as whole numbers 0 .. 2^bits - 1."""

    limit: float
    """R: what is outside of [-R, R] is clipped to it."""
    bits: int = 16
    """How many bits a number keeps: the step is 2 R / (2^bits - 1)."""

    def __post_init__(self) -> None:
        if not (self.limit > 0 and math.isfinite(self.limit)):
            raise InputError(f"privacy.limit: {self.limit} is not a positive number")
        if not 1 <= self.bits <= 31:
            raise InputError(f"privacy.bits: {self.bits} is not in 1 .. 31")

    @property
    def step(self) -> float:
        """How far two neighbouring numbers are apart."""
        return 2 * self.limit / (2**self.bits - 1)

    def check_clients(self, num_clients: int) -> None:
        """The sum of so many clients' words must not wrap around: n (2^bits - 1) < 2^32.

        Raises InputError.
        """
        if num_clients * (2**self.bits - 1) >= MODULUS:
            allowed = int(math.log2(MODULUS / num_clients))
            raise InputError(
                f"privacy.bits: {self.bits} bits of {num_clients} clients do not fit into a sum "
                f"modulo 2^32 (at most {allowed})"
            )

    def encode(self, tensors: Tensors, seed: int, *names: str | int) -> Words:
        """All tensors, in the order of their names, as one vector [d].

        Rounding is stochastic, from the seed of these names, so its mean over draws is the number
        itself. A number that is not finite raises InputError.
        """
        flat = torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])
        if not bool(torch.isfinite(flat).all()):
            raise InputError("update: has values that are not finite")
        draws = torch.rand(
            len(flat), generator=generator_of(seed, "rounding", *names), dtype=torch.float64
        )
        scaled = (flat.clamp(-self.limit, self.limit) + self.limit) / self.step
        rounded = (scaled + draws).floor().clamp(0, 2**self.bits - 1)
        return rounded.to(torch.int64).numpy().astype(np.uint32)

    def decode(self, total: Words, num_clients: int, like: Tensors) -> dict[str, Tensor]:
        """The sum of so many clients' words as tensors of the shapes of `like`, float64."""
        flat = torch.from_numpy(total.astype(np.float64)) * self.step - num_clients * self.limit
        names = sorted(like)
        pieces = flat.split([like[name].numel() for name in names])
        return {name: each.view(like[name].shape) for name, each in zip(names, pieces, strict=True)}

    def sensitivity(self, clip: float, num_values: int) -> float:
        """The largest L2 norm of d quantised values whose norm was at most `clip`: each is rounded
        by less than a step, so C + step sqrt(d). Noise must be scaled to this, not to the clip."""
        return clip + self.step * math.sqrt(num_values)


def plain_sum(vectors: Sequence[Words]) -> Words:
    """The sum modulo 2^32: what a secure sum must equal bit for bit."""
    total = np.zeros_like(vectors[0])
    for vector in vectors:
        total += vector
    return total
