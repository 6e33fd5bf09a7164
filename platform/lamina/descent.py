"""A small descent: gradient steps on a few tensors whose loss needs no backbone, as refitting a
head on Gaussian features; and sums and products of gradients by name.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor


def descend(
    tensors: Mapping[str, Tensor],
    loss_of: Callable[[Mapping[str, Tensor], int], Tensor],
    num_steps: int,
    learning_rate: float,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
) -> dict[str, Tensor]:
    """New values of `tensors` after `num_steps` steps of SGD down `loss_of(tensors, step)`, with
    the learning rate falling to zero as a cosine.

    The given tensors stay as they are. Runs with gradients on, wherever it is called.
    """
    with torch.enable_grad():
        moving = {
            name: tensor.detach().clone().requires_grad_() for name, tensor in tensors.items()
        }
        optimizer = torch.optim.SGD(
            moving.values(), learning_rate, momentum, weight_decay=weight_decay
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(num_steps, 1))
        for step in range(num_steps):
            optimizer.zero_grad()
            loss_of(moving, step).backward()
            optimizer.step()
            schedule.step()
    return {name: tensor.detach() for name, tensor in moving.items()}


def inner(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Tensor:
    """The inner product of two gradients given by name, float64; what is absent is zero."""
    products = [
        torch.dot(first[name].double().flatten(), second[name].double().flatten())
        for name in first
        if name in second
    ]
    if products:
        return torch.stack(products).sum()
    device = next((each.device for each in first.values()), None)
    return torch.zeros((), dtype=torch.float64, device=device)


def plus(
    gradients: Mapping[str, Tensor],
    references: Sequence[Mapping[str, Tensor]],
    weights: Sequence[float],
) -> dict[str, Tensor]:
    """g + sum_k w_k g_k of gradients given by name; what is absent is zero."""
    total = dict(gradients)
    for reference, weight in zip(references, weights, strict=True):
        for name, value in reference.items():
            total[name] = total[name] + weight * value if name in total else weight * value
    return total
