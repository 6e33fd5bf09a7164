"""What the modules of a Hugging Face model are called: its layers, attention projections, MLPs and
norms. `read_architecture.py` finds them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lamina.backbones.overlay import Overlay, Site
from lamina.registry import InputError, unknown

CROSS = re.compile(r"EncDecAttention|encoder_attn|cross_?attn|cross_?attention", re.IGNORECASE)
"""Modules by which a decoder reads what its encoder made of the prompt."""


@dataclass(frozen=True)
class Architecture:
    """The named modules of one model."""

    model_type: str
    """Its Hugging Face model type."""
    blocks: tuple[str, ...]
    """Its layers, in order. One that is called at several depths (ALBERT) is one layer."""
    stack: str | None
    """The list that holds the layers, where each is called once and the next reads its output."""
    width: int
    """Numbers of a token between the layers; of the last layer, where they differ."""
    linears: dict[str, int]
    """Every linear module inside a layer, in order, and the number of its layer."""
    norms: dict[str, int | None]
    """Every LayerNorm and RMSNorm that tokens pass, in order, and the number of its layer where it
    is inside one."""
    attentions: tuple[str, ...]
    """The self-attention module of each layer; empty where none was found."""
    projections: tuple[str, ...]
    """What query, key and value are called; one name where one module computes all of them."""
    query_width: int
    """Numbers of a token's queries in a layer."""
    key_width: int
    """Numbers of a token's keys in a layer; less than `width` where queries share them."""
    norms_before_attention: tuple[str, ...] | None
    """The LayerNorm through which the attention of each layer reads; empty where the attention
    reads the layer's input itself, None where neither is certain."""
    norms_before_mlp: tuple[str, ...] | None
    """The norm through which the MLP of each layer reads; empty and None as above."""
    mlp_sites: tuple[Site, ...]
    """From the input of each layer's MLP to its output; empty where a layer has none."""
    after: frozenset[str]
    """The modules that come after the last layer."""
    is_causal: bool
    """Whether a token sees only those before it."""
    rotates_keys: bool
    """Whether the attention changes keys after their projection: by position, or by a norm."""
    num_encoder_layers: int
    """The number of layers of an encoder with a decoder behind it; they come first. 0 where there
    is no decoder."""
    projects_positions: bool
    """Whether projections of the attention read embeddings of positions besides tokens (DeBERTa),
    so that what they read is not a row's."""

    @property
    def num_layers(self) -> int:
        """How many layers there are; at least 1."""
        return max(1, len(self.blocks))

    @property
    def is_hierarchical(self) -> bool:
        """Whether tokens are merged on the way, so that layers differ in width."""
        return self.stack is None and len(self.blocks) > 1 and not self.has_decoder

    @property
    def has_decoder(self) -> bool:
        """Whether its last layers are a decoder's, which read answers and the encoder's output."""
        return self.num_encoder_layers > 0

    @property
    def mlps(self) -> tuple[Site, ...]:
        """From the input of each layer's MLP to its output. Raises InputError where a layer has
        none that is found."""
        if not self.mlp_sites:
            raise InputError(
                f"backbone.name: no MLP is found in the layers of a {self.model_type!r} model"
            )
        return self.mlp_sites

    @property
    def query_and_value(self) -> tuple[str, ...]:
        """The projections that LoRA adapts by default: query and value, or the module that computes
        them together. Raises InputError where none is found."""
        if not self.projections:
            named = sorted({name.rsplit(".", 1)[-1] for name in self.linears})
            raise InputError(
                f"adapter.targets: no query and value are found in a {self.model_type!r} backbone: "
                "name the modules that carry it "
                f"(allowed: {', '.join(named) or 'none, it has no linear ones'})"
            )
        return self.projections if self.is_fused else (self.projections[0], self.projections[2])

    @property
    def is_fused(self) -> bool:
        """Whether one module computes query, key and value."""
        return len(self.projections) == 1

    def projections_of(self, layer: int) -> tuple[str, ...]:
        """The projections of a layer's attention, by their whole names."""
        return tuple(f"{self.attentions[layer]}.{name}" for name in self.projections)

    def reads_answers(self, module: str) -> bool:
        """Whether a module inside a layer reads the tokens of a decoder. Modules of an encoder do
        not, nor do those that make keys and values of the encoder's output."""
        if not self.has_decoder or self.layer_of(module) < self.num_encoder_layers:
            return False
        is_of_keys = module.rpartition(".")[2] in self.projections[1:]
        return not (is_of_keys and CROSS.search(module))

    def layer_of(self, module: str) -> int:
        """The layer that a module is inside. For a module outside the layers, the first or the last
        layer: whichever runs next to it."""
        layer = number_of(module, self.blocks)
        if layer is not None:
            return layer
        return self.num_layers - 1 if module in self.after else 0

    def frozen_below(self, overlay: Overlay) -> int:
        """How many layers lie below everything that an overlay changes; all, where it is empty."""
        if overlay.stand_in is not None or overlay.prompts or overlay.position_shift:
            return 0
        modules = {*overlay.input_patches}
        for site in overlay.patches:
            modules |= {site.read, site.write}
        layers = [*overlay.prefixes, *(self.layer_of(module) for module in modules)]
        return min(layers, default=self.num_layers)

    def sites(self, targets: Sequence[str] | None, layers: Sequence[int] | None) -> list[Site]:
        """Sites on the linear modules whose names end in one of `targets` (default: query and
        value), in `layers`.

        `targets` follows PEFT's `target_modules`: a name matches itself and every path that ends in
        it. Raises InputError for a target or a layer that is not there.
        """
        wanted = list(targets) if targets else list(self.query_and_value)
        endings = {name.rsplit(".", 1)[-1] for name in self.linears}
        for target in wanted:
            if not any(ends_in(name, target) for name in self.linears):
                raise unknown("adapter.targets", target, endings)
        chosen = self.layers(layers)
        return [
            Site(name, name)
            for name, layer in self.linears.items()
            if layer in chosen and any(ends_in(name, target) for target in wanted)
        ]

    def linears_in(self, layers: Sequence[int] | None) -> list[str]:
        """The linear modules in `layers` (default: all)."""
        chosen = self.layers(layers)
        return [name for name, layer in self.linears.items() if layer in chosen]

    def norms_in(self, layers: Sequence[int] | None) -> list[str]:
        """The norms in `layers` (default: all, and those outside them)."""
        chosen = self.layers(layers)
        return [
            name
            for name, layer in self.norms.items()
            if layer in chosen or (layer is None and layers is None)
        ]

    def layers(self, layers: Sequence[int] | None) -> list[int]:
        """The layers meant: all by default; negative numbers count from the last."""
        if layers is None:
            return list(range(self.num_layers))
        for layer in layers:
            if not -self.num_layers <= layer < self.num_layers:
                raise InputError(
                    f"adapter.layers: there is no layer {layer} "
                    f"(allowed: 0 to {self.num_layers - 1}, or negative)"
                )
        return sorted({layer % self.num_layers for layer in layers})


def ends_in(name: str, target: str) -> bool:
    """Whether a module is called `target`, or its path ends in it."""
    return name == target or name.endswith(f".{target}")


def number_of(module: str, blocks: Sequence[str]) -> int | None:
    """The number of the layer that a module is, or is inside."""
    for number, block in enumerate(blocks):
        if module == block or module.startswith(f"{block}."):
            return number
    return None
