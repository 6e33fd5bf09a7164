"""Mixture of LoRAs (LoRAMoE, Dou et al., 2024): W0 x + (alpha / rank) sum_e g_e(x) B_e A_e x, with
a gate g = softmax(W_g x) for every token."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.adapters.base import AdapterKind, Tensors, dropped_out, grouped_linear, uniform
from lamina.backbones.backbone import Backbone
from lamina.backbones.overlay import Overlay, Site
from lamina.backbones.packing import stacked_fields
from lamina.registry import InputError

GATE = ".gate.weight"


@dataclass(frozen=True)
class LoRAMixture(AdapterKind):
    """Low-rank experts beside linear modules of the backbone, and a gate in each that mixes them.
    Per module `<module>.experts_A.weight` [experts * rank, d_in], one expert's rows after the
    other's, `<module>.experts_B.weight` [d_out, experts * rank] and `<module>.gate.weight`
    [experts, d_in]."""

    experts: int = 4
    """E, experts of a module (8 in the authors' script)."""
    rank: int = 4
    """r, the inner width of an expert."""
    alpha: float = 32.0
    """An expert's update is scaled by alpha / rank."""
    dropout: float = 0.0
    """Share of the experts' inputs that is dropped in training; the gate reads them whole."""
    targets: tuple[str, ...] | None = None
    """Names of the modules. Default: those that a LoRA adapts, query and value."""
    layers: tuple[int, ...] | None = None
    """Layers that carry it; negative numbers count from the last. Default: all."""

    def __post_init__(self) -> None:
        for name in ("experts", "rank"):
            if getattr(self, name) < 1:
                raise InputError(f"adapter.{name}: {getattr(self, name)} is not positive")
        if not 0 <= self.dropout < 1:
            raise InputError(f"adapter.dropout: {self.dropout} is not in [0, 1)")

    def initialise(self, backbone: Backbone, generator: torch.Generator) -> dict[str, Tensor]:
        """A and the gate as the default of nn.Linear, as in the authors' code; B = 0, so that the
        model starts as the frozen one."""
        tensors, width = {}, self.experts * self.rank
        for site in backbone.architecture.sites(self.targets, self.layers):
            d_in, d_out = backbone.shape_of(site.write)
            bound = d_in**-0.5
            tensors[f"{site.write}.experts_A.weight"] = uniform((width, d_in), bound, generator)
            tensors[f"{site.write}.experts_B.weight"] = torch.zeros(d_out, width)
            tensors[site.write + GATE] = uniform((self.experts, d_in), bound, generator)
        return tensors

    def overlay(
        self, tensors: Tensors, backbone: Backbone, dropout: torch.Generator | None = None
    ) -> Overlay:
        """One patch per module."""
        patches = {}
        for module in gated_modules(tensors):
            patch = LoRAMixturePatch(
                tensors[f"{module}.experts_A.weight"],
                tensors[f"{module}.experts_B.weight"],
                tensors[module + GATE],
                self.alpha / self.rank,
                self.dropout,
                dropout if self.dropout > 0 else None,
            )
            patches[Site(module, module)] = [patch]
        return Overlay(patches=patches)


@dataclass(frozen=True)
class LoRAMixturePatch:
    """y + scale * sum_e g_e(x) B_e A_e x at one module; every tensor may lead with K."""

    a: Tensor
    b: Tensor
    gate: Tensor
    scale: float
    dropout: float = 0.0
    generator: torch.Generator | None = None
    """None: nothing is dropped."""
    prior: Tensor | None = None
    """Shares [N, 1, experts] that a strategy blends each row's gate with."""
    prior_share: float = 0.0
    """The weight of the prior in that blend."""

    @property
    def is_shared(self) -> bool:
        is_one = self.a.dim() == self.b.dim() == 2
        return is_one and self.generator is None and self.prior is None

    def stacked(self, patches: Sequence["LoRAMixturePatch"]) -> "LoRAMixturePatch | None":
        if any(each.generator is not None or each.prior is not None for each in patches):
            return None
        return stacked_fields(patches)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        # A view, so that the gradients of gate and experts are added to each other before x gets
        # them, as they are where x is a piece of a packed batch: the last digits follow the order.
        x = x.to(self.a.dtype).view_as(x)
        shares = gate_shares(x, self.gate)
        if self.prior is not None:
            shares = torch.lerp(shares, self.prior.to(shares.dtype), self.prior_share)
        if self.generator is not None:
            x = dropped_out(x, self.dropout, self.generator)
        inner = grouped_linear(x, self.a).unflatten(-1, (shares.shape[-1], -1))
        mixed = (self.scale * shares[..., None] * inner).flatten(-2)
        return y + grouped_linear(mixed, self.b).to(y.dtype)


def gate_shares(x: Tensor, gate: Tensor) -> Tensor:
    """The gate g(x) of tokens [N, S, d_in]: the weight of each expert, [N, S, experts]; sums to
    1."""
    return grouped_linear(x.to(gate.dtype), gate).softmax(dim=-1)


def gated_modules(tensors: Tensors) -> list[str]:
    """The modules that carry a mixture, in order."""
    return [name.removesuffix(GATE) for name in tensors if name.endswith(GATE)]
