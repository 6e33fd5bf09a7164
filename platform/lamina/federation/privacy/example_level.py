"""Example-level differential privacy on a client: whether one of its rows was trained on can hardly
be told from its update (DP-SGD: Abadi et al., 2016, arXiv 1607.00133). Opacus clips and adds noise;
the gradients of single rows are ours, because the adapters are no nn.Module."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lamina.adapters.model import AdaptedModel
from lamina.core import Batch
from lamina.federation.privacy.accounting import Release
from lamina.registry import InputError


@dataclass(frozen=True)
class ExamplePrivacy:
    """How much one row may move a gradient step, and how much noise hides it."""

    clip: float
    """C, the largest L2 norm of one row's gradient (all tensors as one vector)."""
    noise_multiplier: float
    """z: the noise on the sum of gradients has standard deviation z C."""
    sampling_rate: float
    """q, the probability with which each row is in a step, independently of all others."""

    def __post_init__(self) -> None:
        if not (self.clip > 0 and math.isfinite(self.clip)):
            raise InputError(f"privacy.clip: {self.clip} is not a positive number")
        if not (self.noise_multiplier >= 0 and math.isfinite(self.noise_multiplier)):
            raise InputError(f"privacy.noise_multiplier: {self.noise_multiplier} is negative")
        if not 0 < self.sampling_rate <= 1:
            raise InputError(f"privacy.sampling_rate: {self.sampling_rate} is not in (0, 1]")

    @property
    def release(self) -> Release:
        """What one step costs an `Accountant` of rows."""
        return Release(self.noise_multiplier, self.sampling_rate)


def sample_rows(num_rows: int, privacy: ExamplePrivacy, seed: int, *names: str | int) -> Tensor:
    """The rows of a step, int64 [n]: each with probability q, independently (Poisson sampling).
    There may be none; the step must be taken all the same."""
    raise NotImplementedError


def private_optimizer(
    optimizer: torch.optim.Optimizer,
    privacy: ExamplePrivacy,
    num_rows: int,
    seed: int,
    *names: str | int,
) -> Any:
    """Opacus' `DPOptimizer` around an optimiser of plain tensors, with noise from the named seed.
    Gradients are divided by the expected number of rows, q N."""
    raise NotImplementedError


def private_step(
    model: AdaptedModel,
    batch: Batch,
    optimizer: Any,
    loss_of: Callable[[Tensor, Batch], Tensor],
    chunk: int = 32,
) -> None:
    """One step of a `private_optimizer` on a batch that `sample_rows` chose (maybe empty).

    `loss_of` maps logits [n, classes] and the batch to the rows' own losses [n]. `chunk` bounds how
    many rows have a copy of the trained tensors at a time.
    """
    raise NotImplementedError
