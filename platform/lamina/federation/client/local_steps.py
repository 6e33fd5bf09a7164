"""The gradient steps of a client's round."""

from collections.abc import Iterator
from math import nan

import torch

from lamina.adapters.model import AdaptedModel
from lamina.core import Batch, generator_of
from lamina.federation.client.setup import ClientSetup
from lamina.federation.privacy.example_level import ExamplePrivacy, PrivateSteps, sample_rows
from lamina.memory.memory import Memory, Replay
from lamina.strategies.base import Strategy
from lamina.training.stepper import Stepper
from lamina.training.workers import Alone

_STEPS_OF_A_ROUND = 1_000_000
"""More than a client takes: so the draws of two rounds from a memory have different names."""


def descend(
    setup: ClientSetup,
    strategy: Strategy,
    model: AdaptedModel,
    memory: Memory | None,
    data: Batch,
    round: int,
    client: int,
) -> float:
    """Train a model on a client's rows. Returns the mean loss of the steps; NaN under example-level
    privacy, where it may not be known."""
    size, device = setup.training.batch_size, setup.backbone.device
    num_steps = setup.local.num_steps(len(data), size)
    stepper = Stepper(strategy, model, setup.training, num_steps, Alone())
    privacy = None if setup.privacy is None else setup.privacy.of_rows(len(data), size)
    total = torch.zeros((), device=device)
    with model.dropping(generator_of(setup.seed, "dropout", round, client)):
        if privacy is not None:
            _descend_privately(stepper, privacy, num_steps, data, setup.seed, round, client)
            return nan
        batches = _batches(data, size, setup.seed, round, client)
        for step, batch in zip(range(num_steps), batches, strict=False):
            replay = Replay(memory, setup.rows, round * _STEPS_OF_A_ROUND + step, device)
            total += stepper.step(batch, replay)
    return float(total) / num_steps


def _descend_privately(
    stepper: Stepper,
    privacy: ExamplePrivacy,
    num_steps: int,
    data: Batch,
    seed: int,
    round: int,
    client: int,
) -> None:
    """As many steps with differential privacy, each on rows that are drawn for it, with clipped and
    noisy gradients."""
    steps = PrivateSteps(stepper, privacy, len(data), seed, round, client)
    for step in range(num_steps):
        steps.step(data[sample_rows(len(data), privacy, seed, round, client, step)])


def _batches(data: Batch, size: int, seed: int, round: int, client: int) -> Iterator[Batch]:
    """Pass after pass over the rows, each in an order of its own."""
    epoch = 0
    while True:
        shuffle = generator_of(seed, "order", round, client, epoch)
        for rows in torch.randperm(len(data), generator=shuffle).split(size):
            yield data[rows]
        epoch += 1
