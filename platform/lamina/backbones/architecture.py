"""What the parts of a Hugging Face transformer are called: its layers, attention projections and
MLPs.

Found by structure and by the names in use, not listed per model: `bert` calls a query `query`,
`vit` `q_proj`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from lamina.backbones.overlay import Site
from lamina.registry import InputError, unknown

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROJECTIONS = [
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("query_proj", "key_proj", "value_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("q", "k", "v"),
]
"""How models call the projections of their attention, as in PEFT's table per model type."""
NORMS_BEFORE_ATTENTION = ("layernorm_before", "layer_norm1", "norm1", "attn_norm")
"""How models call the LayerNorm of a layer that its attention reads through, where there is one."""
NORMS_AFTER_ATTENTION = ("attention.output.LayerNorm", "sa_layer_norm", "self_attn_layer_norm")
"""How models call the LayerNorm after the attention, where there is none before."""


@dataclass(frozen=True)
class Architecture:
    """The named parts of one transformer."""

    stack: str
    """The list of its layers."""
    linears: dict[str, int]
    """Every linear module inside a layer, in order, and the number of its layer."""
    norms: dict[str, int | None]
    """Every LayerNorm, in order, and the number of its layer where it is inside one."""
    attentions: tuple[str, ...]
    """The self-attention module of each layer."""
    projections: tuple[str, str, str]
    """What query, key and value are called in this model."""
    norms_before_attention: tuple[str, ...] | None
    """The LayerNorm through which the attention of each layer reads; empty where the attention
    reads the layer's input itself, None where neither is certain."""
    mlps: tuple[Site, ...]
    """From the input of each layer's MLP to its output."""
    after: frozenset[str]
    """The modules that come after the last layer."""

    @property
    def num_layers(self) -> int:
        """How many layers there are."""
        return len(self.attentions)

    @property
    def query_and_value(self) -> tuple[str, str]:
        """The two projections that LoRA adapts by default."""
        return self.projections[0], self.projections[2]

    def projections_of(self, layer: int) -> tuple[str, str, str]:
        """Query, key and value of a layer."""
        query, key, value = self.projections
        attention = self.attentions[layer]
        return f"{attention}.{query}", f"{attention}.{key}", f"{attention}.{value}"

    def layer_of(self, module: str) -> int:
        """The layer that a module is inside, or else the one that the model has come to when the
        module is called: the first or the last."""
        layer = _number_after(module, self.stack)
        if layer is not None:
            return layer
        return self.num_layers - 1 if module in self.after else 0

    def sites(self, targets: Sequence[str] | None, layers: Sequence[int] | None) -> list[Site]:
        """Sites on the linear modules whose names end in one of `targets` (default: query and
        value), in `layers`.

        `targets` follows PEFT's `target_modules`: a name matches itself and every path that ends in
        it. Raises InputError for a target or a layer that is not there.
        """
        wanted = list(targets) if targets else list(self.query_and_value)
        endings = {name.rsplit(".", 1)[-1] for name in self.linears}
        for target in wanted:
            if not any(_ends_in(name, target) for name in self.linears):
                raise unknown("adapter.targets", target, endings)
        chosen = self.layers(layers)
        return [
            Site(name, name)
            for name, layer in self.linears.items()
            if layer in chosen and any(_ends_in(name, target) for target in wanted)
        ]

    def linears_in(self, layers: Sequence[int] | None) -> list[str]:
        """The linear modules in `layers` (default: all)."""
        chosen = self.layers(layers)
        return [name for name, layer in self.linears.items() if layer in chosen]

    def norms_in(self, layers: Sequence[int] | None) -> list[str]:
        """The LayerNorms in `layers` (default: all, and those outside them)."""
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


def read_architecture(model: "PreTrainedModel") -> Architecture:
    """Find the parts of `model`. Raises InputError where its structure is not that of a known
    transformer."""
    config = model.config
    text = config.get_text_config()
    stack_name, stack = _layer_stack(model, text.num_hidden_layers)
    linears = {
        f"{stack_name}.{index}.{name}": index
        for index, layer in enumerate(stack)
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear)
    }
    norms = {
        name: _number_after(name, stack_name)
        for name, module in model.named_modules()
        if isinstance(module, nn.LayerNorm)
    }
    for projections in PROJECTIONS:
        query, _, value = projections
        queries = [name for name in linears if _ends_in(name, query)]
        if len(queries) == len(stack) and any(_ends_in(name, value) for name in linears):
            break
    else:
        raise InputError(
            f"backbone.name: the attention of a {config.model_type!r} model has none of the known "
            f"projections ({', '.join(query for query, _, _ in PROJECTIONS)})"
        )
    return Architecture(
        stack=stack_name,
        linears=linears,
        norms=norms,
        attentions=tuple(name.rsplit(".", 1)[0] for name in queries),
        projections=projections,
        norms_before_attention=_norms_before_attention(norms, len(stack)),
        mlps=_mlps(model, linears, text.hidden_size),
        after=frozenset(_after(model, stack_name)),
    )


def _ends_in(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _norms_before_attention(
    norms: dict[str, int | None], num_layers: int
) -> tuple[str, ...] | None:
    def found(endings: Sequence[str]) -> tuple[str, ...]:
        inside = [name for name, layer in norms.items() if layer is not None]
        return tuple(name for name in inside if any(_ends_in(name, each) for each in endings))

    before = found(NORMS_BEFORE_ATTENTION)
    if len(before) == num_layers:
        return before
    return () if len(found(NORMS_AFTER_ATTENTION)) == num_layers else None


def _number_after(name: str, stack: str) -> int | None:
    """The number of the layer that a module is inside, if it is inside one."""
    rest = name.removeprefix(f"{stack}.")
    return int(rest.split(".", 1)[0]) if rest != name else None


def _after(model: "PreTrainedModel", stack: str) -> list[str]:
    names = [name for name, _ in model.named_modules()]
    last = max(at for at, name in enumerate(names) if name.startswith(f"{stack}."))
    return names[last + 1 :]


def _layer_stack(model: "PreTrainedModel", num_layers: int) -> tuple[str, nn.ModuleList]:
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == num_layers:
            return name, module
    raise InputError(f"backbone.name: no stack of {num_layers} layers in a {type(model).__name__}")


def _mlps(model: "PreTrainedModel", linears: dict[str, int], width: int) -> tuple[Site, ...]:
    """Per layer, the last pair of linear modules width -> wider -> width."""
    found: dict[int, Site] = {}
    widening: dict[int, tuple[str, int]] = {}
    for name, layer in linears.items():
        module = model.get_submodule(name)
        assert isinstance(module, nn.Linear)
        if module.in_features == width and module.out_features > width:
            widening.setdefault(layer, (name, module.out_features))
        elif module.out_features == width and layer in widening:
            first, inner = widening[layer]
            if module.in_features == inner:
                found[layer] = Site(first, name)
    return tuple(found[layer] for layer in sorted(found))
