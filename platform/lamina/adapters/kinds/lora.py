"""LoRA (Hu et al., 2022): W0 x + (alpha / rank) B A x, with A [rank, d_in] and B [d_out, rank]."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters.base import (
    PEFT_PREFIX,
    AdapterKind,
    Tensors,
    are_transposed,
    dropped_out,
    grouped_linear,
    uniform,
)
from lamina.backbones.backbone import Backbone
from lamina.backbones.overlay import Overlay, Site
from lamina.registry import InputError


@dataclass(frozen=True)
class LoRA(AdapterKind):
    """A low-rank update beside linear modules of the backbone. Tensors are named as in PEFT,
    `<module>.lora_A.weight`."""

    rank: int = 8
    """r, the inner width."""
    alpha: float = 16.0
    """The update is scaled by alpha / rank."""
    dropout: float = 0.0
    """Share of the update's inputs that is dropped in training."""
    targets: tuple[str, ...] | None = None
    """Names of the modules, as PEFT's `target_modules`. Default: query and value of the model type,
    as in PEFT."""
    layers: tuple[int, ...] | None = None
    """Layers that carry it; negative numbers count from the last. Default: all."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"adapter.rank: {self.rank} is not positive")
        if not 0 <= self.dropout < 1:
            raise InputError(f"adapter.dropout: {self.dropout} is not in [0, 1)")

    def initialise(self, backbone: Backbone, generator: torch.Generator) -> dict[str, Tensor]:
        """A as the default of nn.Linear (Kaiming uniform with a = sqrt 5, as in the authors' code
        and PEFT), B = 0."""
        tensors = {}
        for site in backbone.architecture.sites(self.targets, self.layers):
            d_in, d_out = backbone.shape_of(site.write)
            tensors[f"{site.write}.lora_A.weight"] = uniform(
                (self.rank, d_in), d_in**-0.5, generator
            )
            tensors[f"{site.write}.lora_B.weight"] = torch.zeros(d_out, self.rank)
        return tensors

    def overlay(
        self, tensors: Tensors, backbone: Backbone, dropout: torch.Generator | None = None
    ) -> Overlay:
        """One patch per module. The rank is that of the tensors, so that updates may be
        concatenated (`concatenate`)."""
        patches = {}
        for module in modules_of(tensors):
            patch = LoRAPatch(
                tensors[f"{module}.lora_A.weight"],
                tensors[f"{module}.lora_B.weight"],
                self.alpha / self.rank,
                self.dropout,
                dropout if self.dropout > 0 else None,
            )
            patches[Site(module, module)] = [patch]
        return Overlay(patches=patches)

    def to_peft(
        self, tensors: Tensors, backbone: Backbone
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A PEFT LoRA. Where updates were concatenated the rank is theirs and alpha grows with it:
        the scale stays."""
        modules = modules_of(tensors)
        rank = tensors[f"{modules[0]}.lora_A.weight"].shape[0]
        config = {
            "peft_type": "LORA",
            "r": rank,
            "lora_alpha": self.alpha * rank / self.rank,
            "lora_dropout": self.dropout,
            "target_modules": modules,
            "bias": "none",
            "fan_in_fan_out": are_transposed(backbone, modules),
        }
        return config, {PEFT_PREFIX + name: tensor for name, tensor in tensors.items()}

    def from_peft(self, state: Tensors, backbone: Backbone) -> dict[str, Tensor]:
        """The same tensors without PEFT's prefix."""
        return {name.removeprefix(PEFT_PREFIX): tensor for name, tensor in state.items()}


@dataclass(frozen=True)
class LoRAPatch:
    """y + scale * B A x at one module."""

    a: Tensor
    """[rank, d_in] or [K, rank, d_in]."""
    b: Tensor
    """[d_out, rank] or [K, d_out, rank]."""
    scale: float
    dropout: float
    generator: torch.Generator | None
    """None: nothing is dropped."""

    @property
    def is_shared(self) -> bool:
        return self.a.dim() == self.b.dim() == 2 and self.generator is None

    def stacked(self, patches: Sequence["LoRAPatch"]) -> "LoRAPatch | None":
        """Ranks are filled up with zeros, whose gradients are zero; where scales differ, each goes
        into its B."""
        if any(each.generator is not None for each in patches):
            return None
        rank = max(patch.a.shape[0] for patch in patches)
        downs = [F.pad(each.a, (0, 0, 0, rank - each.a.shape[0])) for each in patches]
        ups = [F.pad(each.b, (0, rank - each.b.shape[1])) for each in patches]
        scale = self.scale
        if any(each.scale != scale for each in patches):
            ups = [each.scale * up for each, up in zip(patches, ups, strict=True)]
            scale = 1.0
        return LoRAPatch(torch.stack(downs), torch.stack(ups), scale, 0.0, None)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        x = x.to(self.a.dtype)
        if self.generator is not None:
            x = dropped_out(x, self.dropout, self.generator)
        # Scaled where it is small: between A and B.
        update = grouped_linear(self.scale * grouped_linear(x, self.a), self.b)
        return y + update.to(y.dtype)


def modules_of(tensors: Tensors) -> list[str]:
    """The modules that carry an update, in order."""
    return [
        name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")
    ]


def downs(tensors: Tensors) -> dict[str, Tensor]:
    """A [rank, d_in] of every module, by module."""
    return {module: tensors[f"{module}.lora_A.weight"] for module in modules_of(tensors)}


def set_orthonormal_downs(tensors: Tensors, generator: torch.Generator) -> None:
    """Let every A have random orthonormal rows."""
    for a in downs(tensors).values():
        random = torch.rand(a.shape[1], a.shape[0], generator=generator)
        a.data.copy_(torch.linalg.qr(random).Q.T)


def freeze_downs(tensors: Tensors) -> None:
    """Train B alone."""
    for a in downs(tensors).values():
        a.requires_grad_(False)


def product(tensors: Tensors, module: str) -> Tensor:
    """B A [d_out, d_in] of one module, before the scale alpha / rank."""
    return tensors[f"{module}.lora_B.weight"] @ tensors[f"{module}.lora_A.weight"]


def scaled(tensors: Tensors, weights: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Every module's B times a weight of the module: a number, or one per column. The result
    replaces the tensors `<prefix><module>.lora_B.weight`, so that the update is scaled."""
    names = {module: f"{module}.lora_B.weight" for module in weights}
    return {prefix + name: weights[module] * tensors[name] for module, name in names.items()}


def concatenate(first: Tensors, second: Tensors) -> dict[str, Tensor]:
    """One LoRA whose update is the sum of both: ranks are stacked, B1 A1 + B2 A2 = [B1 B2] [A1;
    A2]."""
    return {
        name: torch.cat([first[name], second[name]], dim=0 if ".lora_A." in name else 1)
        for name in first
    }
