"""SSF (Lian et al., 2022): every operation's output is scaled and shifted, gamma * y + beta."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.adapters.base import AdapterKind, Tensors, grouped_rows
from lamina.backbones.backbone import Backbone
from lamina.backbones.overlay import Overlay, Site
from lamina.backbones.packing import stacked_fields

SCALE, SHIFT = ".scale", ".shift"
DEVIATION = 0.02
"""Standard deviation of the initial factors around 1 and of the initial shifts around 0, as in the
authors' code."""


@dataclass(frozen=True)
class SSF(AdapterKind):
    """Factors and shifts after each linear module and LayerNorm (Section 3.2). The patch embedding
    of a vision transformer, which the authors' code shifts too, stays as it is."""

    layers: tuple[int, ...] | None = None
    """Layers that carry it; negative numbers count from the last. Default: all, and the LayerNorms
    outside them."""

    def initialise(self, backbone: Backbone, generator: torch.Generator) -> dict[str, Tensor]:
        """gamma from N(1, 0.02^2), beta from N(0, 0.02^2), as in the authors' code: a new adapter
        moves the features a little."""
        tensors = {}
        for name in [
            *backbone.architecture.linears_in(self.layers),
            *backbone.architecture.norms_in(self.layers),
        ]:
            width = backbone.shape_of(name)[1]
            tensors[name + SCALE] = 1 + DEVIATION * torch.randn(width, generator=generator)
            tensors[name + SHIFT] = DEVIATION * torch.randn(width, generator=generator)
        return tensors

    def overlay(
        self, tensors: Tensors, backbone: Backbone, dropout: torch.Generator | None = None
    ) -> Overlay:
        """One patch per module."""
        modules = [name.removesuffix(SCALE) for name in tensors if name.endswith(SCALE)]
        return Overlay(
            patches={
                Site(name, name): [ScaleAndShift(tensors[name + SCALE], tensors[name + SHIFT])]
                for name in modules
            }
        )


@dataclass(frozen=True)
class ScaleAndShift:
    """gamma * y + beta, each [d] or [K, d]."""

    gamma: Tensor
    beta: Tensor

    @property
    def is_shared(self) -> bool:
        return self.gamma.dim() == self.beta.dim() == 1

    def stacked(self, patches: Sequence["ScaleAndShift"]) -> "ScaleAndShift | None":
        return stacked_fields(patches)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return (y * grouped_rows(self.gamma, y) + grouped_rows(self.beta, y)).to(y.dtype)
