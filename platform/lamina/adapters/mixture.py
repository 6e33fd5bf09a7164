"""Experts of a layer: bottleneck adapters that a router mixes row by row, each with a descriptor,
an autoencoder that knows what the expert has seen.

An expert has a number and may sit in several layers; `experts` maps a layer to those in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters.base import uniform
from lamina.adapters.kinds.bottleneck import Bottleneck
from lamina.adapters.model import AdaptedModel
from lamina.backbones.overlay import Overlay, Patch
from lamina.core import generator_of

Experts = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Mixture:
    """y + sum_m g_m patch_m(x), with g = softmax(W mean token + b) for each row."""

    patches: Sequence[Patch]
    """M of them, each adding to y what depends on x alone."""
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
    """Changes nothing, and hands the mean token of what it reads to `seen`."""

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
    return model.backbone.architecture.layers(_kind(model).layers)


def add_expert(
    model: AdaptedModel,
    number: int,
    layers: Sequence[int],
    mixed_layers: Sequence[str],
    descriptor_width: int,
) -> None:
    """An adapter in `layers`, and in those of them that are mixed a column of the router and a
    descriptor, a linear autoencoder dim -> width -> dim. Weights start as in nn.Linear."""
    dim, width = model.backbone.dim, descriptor_width
    model.add(f"adapter_{number}", replace(_kind(model), layers=tuple(layers)))
    drawn, columns = generator_of(model.seed, "expert", number), {}
    for layer in mixed_layers:
        columns[f"{layer}.weight"] = uniform((1, dim), dim**-0.5, drawn)
        columns[f"{layer}.bias"] = uniform((1,), dim**-0.5, drawn)
        descriptor = {
            "encoder": uniform((width, dim), dim**-0.5, drawn),
            "code_bias": torch.zeros(width),
            "decoder": uniform((dim, width), width**-0.5, drawn),
            "bias": torch.zeros(dim),
        }
        model.add_tensors(descriptor_of(layer, number), descriptor)
    model.add_tensors(f"router_{number}", columns)


def descriptor_of(layer: str, number: int) -> str:
    """The name of an expert's descriptor in a layer."""
    return f"descriptor_{layer}_{number}"


def descriptor_error(model: AdaptedModel, layer: str, number: int, tokens: Tensor) -> Tensor:
    """Mean square of h - AE(h) over the features of each mean token h [N, dim], [N]."""
    tensors = model.adapters[descriptor_of(layer, number)].tensors
    code = F.linear(tokens, tensors["encoder"], tensors["code_bias"])
    return (tokens - F.linear(code, tensors["decoder"], tensors["bias"])).square().mean(dim=1)


def mixed_features(
    model: AdaptedModel, inputs: Mapping[str, Tensor], experts: Experts
) -> tuple[Tensor, dict[str, Tensor]]:
    """Features [N, dim] under the mixtures, and the mean token [N, dim] that each mixed layer's MLP
    reads. In all other layers the first adapter stands alone."""
    backbone, mask = model.backbone, inputs.get("attention_mask")
    tensors = {name: adapter.tensors for name, adapter in model.adapters.items()}
    laid = {name: _kind(model).overlay(tensors[name], backbone).patches for name in model.active}
    means: dict[str, Tensor] = {}
    patches = dict(laid[model.active[0]])
    for layer, numbers in experts.items():
        site = _kind(model).sites(backbone)[int(layer)]
        own = [laid[f"adapter_{number}"][site][0] for number in numbers]
        weight, bias = (
            torch.cat([tensors[f"router_{number}"][f"{layer}.{part}"] for number in numbers])
            for part in ("weight", "bias")
        )
        patches[site] = [MeanTokenReader(means, layer, mask), Mixture(own, weight, bias, mask)]
    return backbone(inputs, Overlay(patches=patches)).features, means


def _kind(model: AdaptedModel) -> Bottleneck:
    assert isinstance(model.kind, Bottleneck)
    return model.kind
