"""Bottleneck adapter beside each MLP (AdaptFormer, Chen et al., 2022): MLP(x) + s * W_up
ReLU(W_down x)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.adapters.base import AdapterKind, Tensors, dropped_out, grouped_linear, uniform
from lamina.backbones.backbone import Backbone
from lamina.backbones.overlay import Overlay, Site
from lamina.backbones.packing import stacked_fields
from lamina.registry import InputError


@dataclass(frozen=True)
class Bottleneck(AdapterKind):
    """A narrow MLP in parallel to the layer's own. It reads what that MLP reads, LN(h) in a vision
    transformer (eq. 2); the code of EASE, RanPAC, APER, SSIAT, MOS and SEMA reads h, and all but
    SEMA's drops out 0.1: `before_norm` and `dropout`."""

    width: int = 64
    """Inner width."""
    scale: float = 0.1
    """s, as in the paper and in PILOT; SEMA and MoE-Adapters use 1."""
    before_norm: bool = False
    """Read the layer's tokens before the norm that its MLP reads them through. Where the MLP has
    none (BERT), both are the same."""
    dropout: float = 0.0
    """Share of the inner activations that is dropped in training."""
    layers: tuple[int, ...] | None = None
    """Layers that carry it; negative numbers count from the last. Default: all."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise InputError(f"adapter.width: {self.width} is not positive")
        if not 0 <= self.dropout < 1:
            raise InputError(f"adapter.dropout: {self.dropout} is not in [0, 1)")

    def initialise(self, backbone: Backbone, generator: torch.Generator) -> dict[str, Tensor]:
        """W_down Kaiming uniform (a = sqrt 5), W_up and both biases zero: the adapted model starts
        as the frozen one."""
        sites = self.sites(backbone)
        tensors = {}
        for layer in backbone.architecture.layers(self.layers):
            dim = backbone.shape_of(sites[layer].read)[0]
            tensors[f"{layer}.down.weight"] = uniform((self.width, dim), dim**-0.5, generator)
            tensors[f"{layer}.down.bias"] = torch.zeros(self.width)
            tensors[f"{layer}.up.weight"] = torch.zeros(dim, self.width)
            tensors[f"{layer}.up.bias"] = torch.zeros(dim)
        return tensors

    def sites(self, backbone: Backbone) -> tuple[Site, ...]:
        """Where it reads and writes, per layer. Raises InputError where a layer has no MLP, or the
        norm before it is not known."""
        architecture = backbone.architecture
        if not self.before_norm:
            return architecture.mlps
        norms = architecture.norms_before_mlp
        if norms is None:
            raise InputError(
                "adapter.before_norm: what the MLPs of a "
                f"{backbone.architecture.model_type!r} backbone read through is not known "
                "(allowed: false)"
            )
        if not norms:
            return architecture.mlps
        return tuple(
            Site(norm, mlp.write) for norm, mlp in zip(norms, architecture.mlps, strict=True)
        )

    def overlay(
        self,
        tensors: Tensors,
        backbone: Backbone,
        dropout: torch.Generator | None = None,
    ) -> Overlay:
        """One patch per layer, from the MLP's input to its output."""
        layers = [int(name.split(".")[0]) for name in tensors if name.endswith("down.weight")]
        sites = self.sites(backbone)
        return Overlay(
            patches={
                sites[layer]: [
                    BottleneckPatch(
                        down=tensors[f"{layer}.down.weight"],
                        down_bias=tensors[f"{layer}.down.bias"],
                        up=tensors[f"{layer}.up.weight"],
                        up_bias=tensors[f"{layer}.up.bias"],
                        scale=self.scale,
                        dropout=self.dropout,
                        generator=dropout if self.dropout > 0 else None,
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
    dropout: float = 0.0
    generator: torch.Generator | None = None
    """None: nothing is dropped."""

    @property
    def is_shared(self) -> bool:
        return self.down.dim() == self.up.dim() == 2 and self.generator is None

    def stacked(self, patches: Sequence["BottleneckPatch"]) -> "BottleneckPatch | None":
        if any(each.generator is not None for each in patches):
            return None
        return stacked_fields(patches)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        inner = torch.relu(grouped_linear(x.to(self.down.dtype), self.down, self.down_bias))
        if self.generator is not None:
            inner = dropped_out(inner, self.dropout, self.generator)
        return y + (self.scale * grouped_linear(inner, self.up, self.up_bias)).to(y.dtype)
