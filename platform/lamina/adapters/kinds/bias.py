"""BitFit (Ben Zaken et al., 2022): only the biases are trained."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.adapters.base import AdapterKind, Tensors, grouped_rows
from lamina.backbones.backbone import Backbone
from lamina.backbones.overlay import Overlay, Site
from lamina.backbones.packing import stacked_fields

SUFFIX = ".bias"


@dataclass(frozen=True)
class Bias(AdapterKind):
    """Differences to the biases of linear modules and norms. They start at zero, and several
    adapters add up.

    Where a model was trained without biases (Llama, T5, ModernBERT), each linear module and norm
    gets one.
    """

    targets: tuple[str, ...] | None = None
    """Names of the linear modules, as PEFT's `target_modules` (the paper's smaller variant:
    `[query, intermediate.dense]`). Default: every linear module and norm."""
    layers: tuple[int, ...] | None = None
    """Layers that carry it; negative numbers count from the last. Default: all, and the norms
    outside them."""

    def initialise(self, backbone: Backbone, generator: torch.Generator) -> dict[str, Tensor]:
        """Zeros: the adapted model starts as the frozen one."""
        architecture = backbone.architecture
        if self.targets is None:
            modules = [*architecture.linears_in(self.layers), *architecture.norms_in(self.layers)]
        else:
            modules = [site.write for site in architecture.sites(self.targets, self.layers)]
        with_bias = [
            name
            for name in modules
            if getattr(backbone.model.get_submodule(name), "bias", None) is not None
        ]
        return {
            name + SUFFIX: torch.zeros(backbone.shape_of(name)[1]) for name in with_bias or modules
        }

    def overlay(
        self, tensors: Tensors, backbone: Backbone, dropout: torch.Generator | None = None
    ) -> Overlay:
        """One patch per module."""
        modules = {name.removesuffix(SUFFIX): tensor for name, tensor in tensors.items()}
        return Overlay(
            patches={Site(name, name): [Shift(tensor)] for name, tensor in modules.items()}
        )


@dataclass(frozen=True)
class Shift:
    """y + a vector, [d] or [K, d]."""

    added: Tensor

    @property
    def is_shared(self) -> bool:
        return self.added.dim() == 1

    def stacked(self, patches: Sequence["Shift"]) -> "Shift | None":
        return stacked_fields(patches)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return (y + grouped_rows(self.added, y)).to(y.dtype)
