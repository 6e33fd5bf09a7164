"""Bottleneck adapter beside each MLP (AdaptFormer, Chen et al., 2022): MLP(x) + s * W_up
ReLU(W_down x)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.adapters.base import AdapterKind, Tensors, grouped_linear, uniform
from lamina.backbones.backbone import Backbone
from lamina.backbones.overlay import Overlay
from lamina.backbones.packing import stacked_fields
from lamina.registry import InputError


@dataclass(frozen=True)
class Bottleneck(AdapterKind):
    """A narrow MLP in parallel to the layer's own. It reads what that MLP reads, LN(h) in a vision
    transformer (eq. 2)."""

    width: int = 64
    """Inner width."""
    scale: float = 0.1
    """s, as in the paper and in PILOT; SEMA and MoE-Adapters use 1."""
    layers: tuple[int, ...] | None = None
    """Layers that carry it; negative numbers count from the last. Default: all."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise InputError(f"adapter.width: {self.width} is not positive")

    def initialise(self, backbone: Backbone, generator: torch.Generator) -> dict[str, Tensor]:
        """W_down Kaiming uniform (a = sqrt 5), W_up and both biases zero: the adapted model starts
        as the frozen one."""
        sites = backbone.architecture.mlps
        tensors = {}
        for layer in backbone.architecture.layers(self.layers):
            dim = backbone.shape_of(sites[layer].read)[0]
            tensors[f"{layer}.down.weight"] = uniform((self.width, dim), dim**-0.5, generator)
            tensors[f"{layer}.down.bias"] = torch.zeros(self.width)
            tensors[f"{layer}.up.weight"] = torch.zeros(dim, self.width)
            tensors[f"{layer}.up.bias"] = torch.zeros(dim)
        return tensors

    def overlay(
        self,
        tensors: Tensors,
        backbone: Backbone,
        dropout: torch.Generator | None = None,
    ) -> Overlay:
        """One patch per layer, from the MLP's input to its output."""
        layers = [int(name.split(".")[0]) for name in tensors if name.endswith("down.weight")]
        sites = backbone.architecture.mlps
        return Overlay(
            patches={
                sites[layer]: [
                    BottleneckPatch(
                        down=tensors[f"{layer}.down.weight"],
                        down_bias=tensors[f"{layer}.down.bias"],
                        up=tensors[f"{layer}.up.weight"],
                        up_bias=tensors[f"{layer}.up.bias"],
                        scale=self.scale,
                    )
                ]
                for layer in layers
            }
        )


@dataclass(frozen=True)
class BottleneckPatch:
    """y + s * W_up ReLU(W_down x + b_down) + s * b_up at one layer; every tensor may
    lead with K.
    """

    down: Tensor
    down_bias: Tensor
    up: Tensor
    up_bias: Tensor
    scale: float

    @property
    def is_shared(self) -> bool:
        return self.down.dim() == self.up.dim() == 2

    def stacked(self, patches: Sequence["BottleneckPatch"]) -> "BottleneckPatch | None":
        return stacked_fields(patches)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        inner = torch.relu(grouped_linear(x.to(self.down.dtype), self.down, self.down_bias))
        return y + (self.scale * grouped_linear(inner, self.up, self.up_bias)).to(y.dtype)
