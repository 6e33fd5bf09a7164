"""Experts of a layer: bottleneck adapters `adapter_N` that a router mixes row by row, with a column
`router_N` for each.

An expert has a number and may sit in several layers; `experts` maps a layer to those in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.adapters.kinds.bottleneck import Bottleneck
from lamina.adapters.model import AdaptedModel
from lamina.backbones.overlay import Overlay, Patch

Experts = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Mixture:
    """y + sum_m g_m patch_m(x), with g = softmax(W mean token + b) for each row."""

    patches: Sequence[Patch]
    """M patches. Each adds to y a term that depends on x alone."""
    weight: Tensor
    """W [M, dim]."""
    bias: Tensor
    """b [M]."""
    mask: Tensor | None
    """1 where a token is no padding, [N, S]; None where none is."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        logits = mean_token(x, self.mask) @ self.weight.T + self.bias
        added = torch.stack([patch(x, torch.zeros_like(y)) for patch in self.patches], dim=1)
        return y + torch.einsum("nm,nmsd->nsd", logits.softmax(dim=1).to(y.dtype), added)


@dataclass(frozen=True)
class MeanTokenReader:
    """A patch that changes nothing. It passes the mean token of its input to `seen`."""

    seen: dict[str, Tensor]
    name: str
    mask: Tensor | None

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        self.seen[self.name] = mean_token(x, self.mask)
        return y


def mean_token(x: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the tokens of x [N, S, dim] that are no padding, float32 [N, dim]."""
    if mask is None:
        return x.float().mean(dim=1)
    shown = mask[:, :, None].float()
    return (x.float() * shown).sum(dim=1) / shown.sum(dim=1).clamp_min(1.0)


def adapted_layers(model: AdaptedModel) -> list[int]:
    """The layers that the job adapts."""
    return model.backbone.architecture.layers(bottleneck_of(model).layers)


def mixed_features(
    model: AdaptedModel, inputs: Mapping[str, Tensor], experts: Experts
) -> tuple[Tensor, dict[str, Tensor]]:
    """Features [N, dim] under the mixtures, and the mean token [N, dim] that each mixed layer's MLP
    reads. In all other layers the first adapter stands alone."""
    kind, backbone, mask = bottleneck_of(model), model.backbone, inputs.get("attention_mask")
    tensors = {name: adapter.tensors for name, adapter in model.adapters.items()}
    laid = {name: kind.overlay(tensors[name], backbone).patches for name in model.active}
    means: dict[str, Tensor] = {}
    patches = dict(laid[model.active[0]])
    for layer, numbers in experts.items():
        site = kind.sites(backbone)[int(layer)]
        own = [laid[f"adapter_{number}"][site][0] for number in numbers]
        weight, bias = (
            torch.cat([tensors[f"router_{number}"][f"{layer}.{name}"] for number in numbers])
            for name in ("weight", "bias")
        )
        patches[site] = [MeanTokenReader(means, layer, mask), Mixture(own, weight, bias, mask)]
    return backbone(inputs, Overlay(patches=patches)).features, means


def bottleneck_of(model: AdaptedModel) -> Bottleneck:
    """The job's kind of adapter, which the experts have."""
    assert isinstance(model.kind, Bottleneck)
    return model.kind
