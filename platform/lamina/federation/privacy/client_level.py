"""Client-level differential privacy: whether a client took part at all can hardly be told from the
released global states (DP-FedAvg: McMahan et al., 2018, arXiv 1710.06963).

A round: `sample_clients`; each client sends `clipped(difference(...))`; the server releases
`noisy_mean` of their sum. All clients weigh the same, whatever their number of rows, which a weight
would tell. The server is trusted to see the sum without its noise (central model); with a secure
sum it sees nothing else.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.core import generator_of
from lamina.federation.privacy.accounting import Release
from lamina.registry import InputError

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class ClientPrivacy:
    """How much one client may move a released global state, and how much noise hides it."""

    clip: float
    """C, the largest L2 norm of a client's whole update (all tensors as one vector)."""
    noise_multiplier: float
    """z: the noise on the sum of updates has standard deviation z C."""
    sampling_rate: float
    """q, the probability with which each client is in a round, independently of all others."""
    num_clients: int
    """N, how many clients there are: q N of them are expected in a round."""

    def __post_init__(self) -> None:
        if not 0 < self.sampling_rate <= 1:
            raise InputError(f"privacy.sampling_rate: {self.sampling_rate} is not in (0, 1]")
        if not (self.clip > 0 and math.isfinite(self.clip)):
            raise InputError(f"privacy.clip: {self.clip} is not a positive number")
        if not (self.noise_multiplier >= 0 and math.isfinite(self.noise_multiplier)):
            raise InputError(
                f"privacy.noise_multiplier: {self.noise_multiplier} is not a number from 0"
            )
        if self.num_clients < 1:
            raise InputError(f"privacy.num_clients: {self.num_clients} is not positive")

    @property
    def expected_clients(self) -> float:
        """q N, what the sum is divided by. The number that really came is data, and not used."""
        return self.sampling_rate * self.num_clients

    def release(self, *, poisson: bool) -> Release:
        """What one round costs an `Accountant` of clients. Only where clients really are Poisson
        sampled does sampling count; a fixed number of clients is accounted as if everybody were in
        every round."""
        return Release(self.noise_multiplier, self.sampling_rate if poisson else 1.0)


def sample_clients(clients: Sequence[str], rate: float, seed: int, round_: int) -> list[str]:
    """The clients of a round: each with probability `rate`, independently (Poisson sampling, which
    is what amplification by sampling assumes), in the given order. There may be none.

    Amplification also assumes that nobody outside learns who was drawn; see `noisy_mean` on seeds.
    """
    drawn = torch.rand(
        len(clients), generator=generator_of(seed, "sample", round_), dtype=torch.float64
    )
    return [client for client, u in zip(clients, drawn.tolist(), strict=True) if u < rate]


def difference(found: Tensors, start: Tensors) -> dict[str, Tensor]:
    """found - start by name, float64: what a client's steps changed."""
    return {name: value.double() - start[name].double() for name, value in found.items()}


def norm_of(update: Tensors) -> float:
    """The L2 norm of all tensors as one vector."""
    squares = [value.double().square().sum() for value in update.values()]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


def clipped(update: Tensors, clip: float) -> dict[str, Tensor]:
    """The update, scaled by min(1, C / norm), float64. One that is not finite has no norm to clip,
    and raises InputError."""
    norm = norm_of(update)
    if not math.isfinite(norm):
        raise InputError("update: has values that are not finite")
    factor = min(1.0, clip / norm) if norm > 0 else 1.0
    return {name: value.double() * factor for name, value in update.items()}


def noisy_mean(
    total: Tensors,
    privacy: ClientPrivacy,
    seed: int,
    round_: int,
    sensitivity: float | None = None,
) -> dict[str, Tensor]:
    """(total + N(0, (z S)^2)) / (q N) of a sum of clipped updates, float64; S is the clip.

    A round in which nobody was sampled, or nobody stayed, releases noise too (a total of zeros):
    that it was empty is data. `sensitivity` stands in for S where the sum can be moved by more than
    the clip, as a quantised one can (`Quantiser.sensitivity`).

    The noise comes from the named seed, so a simulation can be repeated. Whoever knows the seed can
    take the noise off again and can tell who was sampled: in a deployment it must be a secret
    (`secrets.randbits(63)`), drawn on the server and written into no job, log or checkpoint that
    leaves it. Nor is torch's generator a cryptographic one, and floating-point Gaussians have gaps
    (Mironov, 2012): the guarantee is that of the ideal mechanism.
    """
    scale = privacy.noise_multiplier * (privacy.clip if sensitivity is None else sensitivity)
    released = {}
    for name in sorted(total):
        generator = generator_of(seed, "client noise", round_, name)
        noise = torch.randn(total[name].shape, generator=generator, dtype=torch.float64)
        released[name] = (total[name].double() + scale * noise) / privacy.expected_clients
    return released
