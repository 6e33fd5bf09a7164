"""(IA)^3 (Liu et al., 2022): learned vectors that rescale keys, values and the inner activations of
each MLP."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lamina.adapters.base import PEFT_PREFIX, AdapterKind, Tensors, are_transposed, grouped_rows
from lamina.backbones.backbone import Backbone
from lamina.backbones.overlay import Overlay, Site
from lamina.backbones.packing import stacked_fields

SUFFIX = ".ia3_l"


@dataclass(frozen=True)
class IA3(AdapterKind):
    """A factor per output of the target modules, and per input of those that end an MLP.

    Tensors are named as in PEFT, `<module>.ia3_l`, and flat. PEFT's default targets for BERT also
    rescale the input of the attention's output projection; with `targets: [key, value,
    output.dense]` and `feedforward: [output.dense]` so does this.
    """

    targets: tuple[str, ...] | None = None
    """Names of the modules, as PEFT's `target_modules`. Default: key, value and the last linear
    module of each MLP, as in the paper; as in PEFT, the query too where one module computes all."""
    feedforward: tuple[str, ...] | None = None
    """Those of them whose input is rescaled instead of the output, as PEFT's `feedforward_modules`.
    Default: the last linear module of each MLP."""
    layers: tuple[int, ...] | None = None
    """Layers that carry it; negative numbers count from the last. Default: all."""

    def initialise(self, backbone: Backbone, generator: torch.Generator) -> dict[str, Tensor]:
        """Ones: the adapted model starts as the frozen one."""
        inner = self._feedforward(backbone)
        architecture = backbone.architecture
        keys = (
            architecture.query_and_value if architecture.is_fused else architecture.projections[1:]
        )
        targets = self.targets or [*keys, *(site.write for site in architecture.mlps)]
        return {
            site.write + SUFFIX: torch.ones(backbone.shape_of(site.write)[site.write not in inner])
            for site in architecture.sites(targets, self.layers)
        }

    def overlay(
        self, tensors: Tensors, backbone: Backbone, dropout: torch.Generator | None = None
    ) -> Overlay:
        """One patch per module, on its output or its input."""
        inner = self._feedforward(backbone)
        patches = {name.removesuffix(SUFFIX): Rescaling(each) for name, each in tensors.items()}
        return Overlay(
            patches={
                Site(m, m): [RescaledOutput(patch.factor)]
                for m, patch in patches.items()
                if m not in inner
            },
            input_patches={m: [patch] for m, patch in patches.items() if m in inner},
        )

    def to_peft(
        self, tensors: Tensors, backbone: Backbone
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A PEFT IA3 on the same modules; there a factor of outputs is a column, one of inputs a
        row."""
        inner = self._feedforward(backbone)
        modules = [name.removesuffix(SUFFIX) for name in tensors]
        config = {
            "peft_type": "IA3",
            "target_modules": modules,
            "fan_in_fan_out": are_transposed(backbone, modules),
            "feedforward_modules": [module for module in modules if module in inner],
        }
        state = {
            PEFT_PREFIX + name: tensor[None]
            if name.removesuffix(SUFFIX) in inner
            else tensor[:, None]
            for name, tensor in tensors.items()
        }
        return config, state

    def from_peft(self, state: Tensors, backbone: Backbone) -> dict[str, Tensor]:
        """The same factors, flat."""
        return {name.removeprefix(PEFT_PREFIX): tensor.flatten() for name, tensor in state.items()}

    def _feedforward(self, backbone: Backbone) -> set[str]:
        """The modules whose input is rescaled."""
        if self.feedforward is None:
            return {site.write for site in backbone.architecture.mlps}
        return {site.write for site in backbone.architecture.sites(self.feedforward, None)}


@dataclass(frozen=True)
class Rescaling:
    """Every token times a vector [d], or [K, d]."""

    factor: Tensor

    @property
    def is_shared(self) -> bool:
        return self.factor.dim() == 1

    def stacked(self, patches: Sequence["Rescaling"]) -> "Rescaling | None":
        return stacked_fields(patches)

    def __call__(self, x: Tensor) -> Tensor:
        return (x * grouped_rows(self.factor, x)).to(x.dtype)


@dataclass(frozen=True)
class RescaledOutput:
    """`Rescaling` of the output at a site."""

    factor: Tensor

    @property
    def is_shared(self) -> bool:
        return self.factor.dim() == 1

    def stacked(self, patches: Sequence["RescaledOutput"]) -> "RescaledOutput | None":
        return stacked_fields(patches)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return Rescaling(self.factor)(y)
