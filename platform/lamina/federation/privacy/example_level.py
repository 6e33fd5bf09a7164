"""Example-level differential privacy on a client: whether one of its rows was trained on can hardly
be told from its update (DP-SGD: Abadi et al., 2016, arXiv 1607.00133).

Opacus clips, adds noise and divides. The gradients of single rows are ours
(`per_sample_gradients`), because its hooks need nn.Modules, and an adapter is bare tensors that are
laid over a backbone. Only losses that are means of the rows' own losses have such gradients.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lamina.adapters.model import AdaptedModel, per_sample_gradients
from lamina.core import Batch, generator_of, seed_of
from lamina.federation.privacy.accounting import Release
from lamina.federation.privacy.extra import privacy_module
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
            raise InputError(
                f"privacy.noise_multiplier: {self.noise_multiplier} is not a number from 0"
            )
        if not 0 < self.sampling_rate <= 1:
            raise InputError(f"privacy.sampling_rate: {self.sampling_rate} is not in (0, 1]")

    @property
    def release(self) -> Release:
        """What one step costs an `Accountant` of the client's rows."""
        return Release(self.noise_multiplier, self.sampling_rate)


def sample_rows(num_rows: int, privacy: ExamplePrivacy, seed: int, *names: str | int) -> Tensor:
    """The rows of a step, int64 [n]: each with probability q, independently (Poisson sampling).

    There may be none, and the step must be taken all the same. `names` are the round, the client
    and the step.
    """
    generator = generator_of(seed, "sample rows", *names)
    drawn = torch.rand(num_rows, generator=generator, dtype=torch.float64)
    return (drawn < privacy.sampling_rate).nonzero()[:, 0]


def private_optimizer(
    optimizer: torch.optim.Optimizer,
    privacy: ExamplePrivacy,
    num_rows: int,
    seed: int,
    *names: str | int,
) -> Any:
    """Opacus' `DPOptimizer` around an optimiser of plain tensors.

    The sum of clipped gradients with its noise is divided by the expected number of rows of a
    step, q N. The noise comes from the seed of `names` (the round and the client), which in a
    deployment is a secret of the client's (see `client_level.noisy_mean`), and is drawn where the
    tensors are, so it differs between kinds of devices.
    """
    device = optimizer.param_groups[0]["params"][0].device
    generator = torch.Generator(device).manual_seed(seed_of(seed, "row noise", *names))
    return privacy_module("opacus.optimizers").DPOptimizer(
        optimizer,
        noise_multiplier=privacy.noise_multiplier,
        max_grad_norm=privacy.clip,
        expected_batch_size=privacy.sampling_rate * num_rows,
        generator=generator,
    )


def private_step(
    model: AdaptedModel,
    batch: Batch,
    optimizer: Any,
    losses_of: Callable[[Tensor, Batch], Tensor],
    chunk: int = 32,
) -> None:
    """One step of a `private_optimizer` on the rows that `sample_rows` chose, maybe none.

    `losses_of` maps logits [n, classes] and a batch to its rows' own losses [n]; `chunk` bounds how
    many rows have a copy of the trained tensors at a time.
    """
    trained = model.parameters()
    assert {id(tensor) for tensor in trained.values()} == {id(each) for each in optimizer.params}
    starts = list(range(0, len(batch), chunk)) or [0]
    for start in starts:
        part = batch[start : start + chunk].trimmed()
        for name, gradients in _gradients(model, part, losses_of).items():
            trained[name].grad_sample = gradients  # type: ignore[attr-defined]
        optimizer.signal_skip_step(do_skip=start != starts[-1])
        optimizer.step()
        optimizer.zero_grad()


def _gradients(
    model: AdaptedModel, part: Batch, losses_of: Callable[[Tensor, Batch], Tensor]
) -> dict[str, Tensor]:
    if len(part) == 0:
        return {
            name: tensor.new_zeros(0, *tensor.shape) for name, tensor in model.parameters().items()
        }
    part = part.to(model.backbone.device)
    return per_sample_gradients(model, part.inputs, lambda logits: losses_of(logits, part))
