"""LayerNorm tuning (Qi et al., 2022; Zhao et al., 2024): only the weights and biases of the
LayerNorms and RMSNorms are trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lamina.adapters.base import PEFT_PREFIX, AdapterKind, Tensors, grouped_rows
from lamina.backbones.backbone import Backbone
from lamina.backbones.overlay import Overlay, Site
from lamina.backbones.packing import stacked_fields
from lamina.registry import InputError

WEIGHT, BIAS = ".weight", ".bias"
PEFT_LAYER = ".ln_tuning_layers"


@dataclass(frozen=True)
class LayerNorm(AdapterKind):
    """Differences to the weight, and to the bias if there is one, of each norm. They start at zero,
    weight decay pulls them to the frozen model, and several adapters add up."""

    layers: tuple[int, ...] | None = None
    """Layers that carry it; negative numbers count from the last. Default: all, and the norms
    outside them."""

    def initialise(self, backbone: Backbone, generator: torch.Generator) -> dict[str, Tensor]:
        """Zeros: the adapted model starts as the frozen one."""
        names = backbone.architecture.norms_in(self.layers)
        if not names:
            raise InputError(
                "adapter.kind: 'layernorm' finds no norm in a "
                f"{backbone.architecture.model_type!r} backbone"
            )
        return {
            name + suffix: torch.zeros(backbone.shape_of(name)[1])
            for name in names
            for suffix in (WEIGHT, BIAS)
            if suffix == WEIGHT or _has_bias(backbone, name)
        }

    def overlay(
        self, tensors: Tensors, backbone: Backbone, dropout: torch.Generator | None = None
    ) -> Overlay:
        """One patch per norm."""
        return Overlay(
            patches={
                Site(name, name): [
                    NormPatch(
                        tensors[name + WEIGHT],
                        tensors.get(name + BIAS),
                        *_eps_and_kind(backbone, name),
                    )
                ]
                for name in _modules_of(tensors)
            }
        )

    def to_peft(
        self, tensors: Tensors, backbone: Backbone
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """PEFT's LN tuning, which holds the weights and biases themselves."""
        config = {"peft_type": "LN_TUNING", "target_modules": _modules_of(tensors)}
        frozen = _frozen(tensors, backbone)
        return config, {
            PEFT_PREFIX + _peft_name(name): frozen[name] + tensor.cpu()
            for name, tensor in tensors.items()
        }

    def from_peft(self, state: Tensors, backbone: Backbone) -> dict[str, Tensor]:
        """The differences to the frozen weights and biases, up to the rounding of a sum."""
        own = {
            name.removeprefix(PEFT_PREFIX).replace(PEFT_LAYER, ""): tensor
            for name, tensor in state.items()
        }
        frozen = _frozen(own, backbone)
        return {name: tensor - frozen[name] for name, tensor in own.items()}


@dataclass(frozen=True)
class NormPatch:
    """y + dw * (x - mean) / deviation + db: a LayerNorm whose weight and bias are larger by dw and
    db, each [d] or [K, d]. An RMSNorm takes x / sqrt(mean x^2), and has no bias."""

    weight: Tensor
    bias: Tensor | None
    eps: float
    centres: bool
    """Whether the mean is subtracted, as in a LayerNorm."""

    @property
    def is_shared(self) -> bool:
        return self.weight.dim() == 1 and (self.bias is None or self.bias.dim() == 1)

    def stacked(self, patches: Sequence["NormPatch"]) -> "NormPatch | None":
        return stacked_fields(patches)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        if self.centres:
            standard = F.layer_norm(x, x.shape[-1:], eps=self.eps)
        else:
            standard = F.rms_norm(x, x.shape[-1:], eps=self.eps)
        moved = y + standard * grouped_rows(self.weight, y)
        if self.bias is not None:
            moved = moved + grouped_rows(self.bias, y)
        return moved.to(y.dtype)


def _eps_and_kind(backbone: Backbone, name: str) -> tuple[float, bool]:
    """What is added to the variance, and whether the norm is a LayerNorm."""
    module: Any = backbone.model.get_submodule(name)
    # T5 calls its RMSNorm a layer norm.
    centres = isinstance(module, nn.LayerNorm) or hasattr(module, "bias")
    eps = getattr(module, "eps", None)
    return (module.variance_epsilon if eps is None else eps), centres


def _has_bias(backbone: Backbone, name: str) -> bool:
    return getattr(backbone.model.get_submodule(name), "bias", None) is not None


def _modules_of(tensors: Tensors) -> list[str]:
    return [name.removesuffix(WEIGHT) for name in tensors if name.endswith(WEIGHT)]


def _peft_name(name: str) -> str:
    module, name_in_module = name.rsplit(".", 1)
    return f"{module}{PEFT_LAYER}.{name_in_module}"


def _frozen(names: Tensors, backbone: Backbone) -> dict[str, Tensor]:
    return {name: backbone.model.get_parameter(name).detach().float().cpu() for name in names}
