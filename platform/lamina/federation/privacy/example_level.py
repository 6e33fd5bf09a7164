"""Example-level differential privacy on a client: whether one of its rows was trained on can hardly
be told from its update (DP-SGD: Abadi et al., 2016, arXiv 1607.00133).

Opacus clips, adds noise and divides. The gradients of single rows are ours, because its hooks need
nn.Modules, and an adapter is bare tensors that are laid over a backbone. Each is that of the
strategy's step on a batch of one row, so what a row adds is clipped whatever the loss is: also one
that compares rows, which then has none to compare. It costs as many passes as a step has rows.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lamina.core import Batch, generator_of, seed_of
from lamina.federation.privacy.accounting import Release
from lamina.federation.privacy.extra import privacy_module
from lamina.memory.memory import Replay
from lamina.registry import InputError
from lamina.training.stepper import Stepper

_AT_ONCE = 32
"""How many rows get a gradient of their own at a time."""


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
        """The release of one step, for an `Accountant` of the client's rows."""
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


class PrivateSteps:
    """The steps of a stepper with noise in them: what follows the noise (the strategy's projection,
    momentum, the schedule) sees no row."""

    def __init__(
        self,
        stepper: Stepper,
        privacy: ExamplePrivacy,
        num_rows: int,
        seed: int,
        *names: str | int,
    ) -> None:
        """`names` are the round and the client."""
        self._stepper = stepper
        self._optimizer = private_optimizer(stepper.optimizer, privacy, num_rows, seed, *names)

    def step(self, rows: Batch) -> None:
        """One step on the rows that `sample_rows` chose, maybe none."""
        stepper = self._stepper
        trained = stepper.parameters
        groups = list(rows.chunks(_AT_ONCE)) or [rows]
        for index, group in enumerate(groups):
            found = [self._gradient(row) for row in group.chunks(1)]
            for at, tensor in enumerate(trained.values()):
                each = [gradients[at] for gradients in found]
                empty = tensor.new_zeros(0, *tensor.shape)
                tensor.grad_sample = torch.stack(each) if each else empty  # type: ignore[attr-defined]
            is_last = index == len(groups) - 1
            self._optimizer.signal_skip_step(do_skip=not is_last)
            self._optimizer.pre_step()
            if not is_last:
                self._optimizer.zero_grad()
        noisy = {name: tensor.grad for name, tensor in trained.items() if tensor.grad is not None}
        stepper.descend(noisy)
        self._optimizer.zero_grad()

    def _gradient(self, row: Batch) -> list[Tensor]:
        """The gradient of one row's loss with respect to the trained tensors, in their order."""
        stepper, backbone = self._stepper, self._stepper.model.backbone
        nothing = Replay(None, lambda _: row, 0, backbone.device)
        loss = stepper.strategy.step(stepper.model, row.trimmed().to(backbone.device), nothing).loss
        tensors = list(stepper.parameters.values())
        found = backbone.gradients(loss, tensors, keep=False)
        return [
            torch.zeros_like(tensor) if gradient is None else gradient
            for tensor, gradient in zip(tensors, found, strict=True)
        ]
