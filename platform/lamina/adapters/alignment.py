"""Classifier alignment: a head refitted on Gaussian features of every class (SLCA, Zhang et al.,
2023; the TAP of HiDe-Prompt)."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters.base import Tensors
from lamina.adapters.model import AdaptedModel
from lamina.descent import descend
from lamina.memory.gaussian import Gaussians


@torch.no_grad()
def refit_head(
    model: AdaptedModel,
    head: str,
    gaussians: Gaussians,
    generator: torch.Generator,
    epochs: int,
    learning_rate: float,
    per_class: int = 120,
    weight_decay: float = 5e-4,
) -> None:
    """Descend the cross-entropy over all classes on `per_class` features of each, drawn anew for
    every epoch."""
    drawn = gaussians.batches(epochs, per_class, generator)

    def loss_of(tensors: Tensors, _: int) -> Tensor:
        features, labels = next(drawn)
        return F.cross_entropy(F.linear(features, tensors["weight"], tensors["bias"]), labels)

    tensors = model.adapters[head].tensors
    num_steps = epochs * gaussians.num_seen
    fitted = descend(tensors, loss_of, num_steps, learning_rate, weight_decay=weight_decay)
    for name, tensor in tensors.items():
        tensor.copy_(fitted[name])
