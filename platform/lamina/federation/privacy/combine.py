"""How the updates of a round become one sum: seen one by one, or only as a sum."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch

from lamina.federation.privacy.quantise import Quantiser, Tensors
from lamina.registry import InputError, unknown

Mode = Literal["off", "ideal", "real"]
Stage = Literal["keys", "shares", "masked", "unmask"]
"""What a client sends to a secure sum, in order."""
STAGES: tuple[Stage, ...] = get_args(Stage)


@dataclass(frozen=True)
class SecureSum:
    """How a round's updates are added up."""

    mode: Mode = "off"
    """`off`: in float64, every update in the server's hands. `real`: quantised, masked, and only
    the sum is seen. `ideal`: the same sum to the bit without the cryptography, for simulations."""
    limit: float = 1.0
    """R: each value of an update is clipped to [-R, R] before it is quantised."""
    bits: int = 16
    """How many bits a value keeps."""
    threshold: float = 2 / 3
    """The share of the round's clients that must stay to the end; above one half, so that no server
    can ask two disjoint groups for the two secrets of a client."""

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise unknown("privacy.secure_sum.mode", self.mode, get_args(Mode))
        if not 0.5 < self.threshold <= 1:
            raise InputError(f"privacy.secure_sum.threshold: {self.threshold} is not in (0.5, 1]")
        _ = self.quantiser

    @property
    def quantiser(self) -> Quantiser:
        """Numbers to words and back."""
        return Quantiser(self.limit, self.bits)

    def least(self, num_clients: int) -> int:
        """How many of so many clients must stay: more than half, and at least two, for a sum of one
        is no secret."""
        return max(2, num_clients // 2 + 1, math.ceil(self.threshold * num_clients - 1e-9))


class SumAbortedError(Exception):
    """Too few clients stayed for a secure sum: the round has no result, and nothing leaked."""


@dataclass(frozen=True)
class Summed:
    """A sum of updates."""

    total: dict[str, torch.Tensor]
    """float64, by name."""
    clients: tuple[str, ...]
    """Whose updates are in it, in their order."""
    bytes_up: Mapping[str, int] = field(default_factory=dict)
    """What each client sent for it (`real`), or would have sent of masked words (`ideal`)."""
    bytes_down: Mapping[str, int] = field(default_factory=dict)
    """What each client was sent for it (`real`)."""


def sum_of(
    updates: Mapping[str, Tensors],
    settings: SecureSum,
    seed: int,
    round_: int,
    lost: Mapping[str, Stage] | None = None,
) -> Summed:
    """The sum of the updates of a round's clients (equal names and shapes), in their order.

    `lost` names clients that fell silent before they sent the message of a stage. Whoever is lost
    before `masked` is not in the sum; whoever is lost before `unmask` is. Raises SumAbortedError
    when a stage is left with fewer than `settings.least` clients.
    """
    raise NotImplementedError
