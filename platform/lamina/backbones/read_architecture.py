"""Finds the modules of a Hugging Face model.

They are found by structure and by the names in use, not listed per model: `bert` calls a query
`query`, `vit` `q_proj`. Reading never fails. What is not found is empty, and whoever needs it is
refused then, with a reason. So statistics of features, which need no module, work on every model.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import nn

from lamina.backbones.architecture import CROSS, Architecture, ends_in, number_of
from lamina.backbones.overlay import Site

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
FUSED = ("Wqkv", "c_attn", "query_key_value", "qkv_proj", "qkv")
"""How models call one module that computes query, key and value together."""
NORMS_BEFORE_ATTENTION = ("layernorm_before", "layer_norm1", "norm1", "attn_norm")
"""How models call the LayerNorm of a layer that its attention reads through, where there is one."""
NORMS_AFTER_ATTENTION = ("attention.output.LayerNorm", "sa_layer_norm")
"""How models call the LayerNorm after the attention, where there is none before."""
NORMS_BEFORE_MLP = (
    "pre_feedforward_layernorm",
    "layernorm_after",
    "layer_norm2",
    "norm2",
    "mlp_norm",
    "ln_2",
    "post_attention_layernorm",
)
"""How models call the norm that a layer's MLP reads through; the first that every layer has."""
POOLERS = re.compile(r"(^|\.)(pooler|pooler_activation|head)(\.|$)")
"""Modules that make one vector of the tokens, which Lamina does not read."""
UNREAD = {
    "clip_vision_model": ("post_layernorm",),
    "convnext": ("layernorm",),
    "convnextv2": ("layernorm",),
}
"""By model type, further modules that only the pooled vector passes."""


def read_architecture(model: "PreTrainedModel") -> Architecture:
    """Find the modules of `model`."""
    return _Reader(model).read()


def is_linear(module: nn.Module) -> bool:
    """Whether a module multiplies by a matrix: `nn.Linear`, or GPT-2's `Conv1D`."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a LayerNorm or an RMSNorm with a weight per number of a token.

    Models bring RMSNorms of their own. One that reads [N, channels, height, width] is left out.
    """
    name, weight = type(module).__name__, getattr(module, "weight", None)
    return (
        name.endswith(("LayerNorm", "RMSNorm"))
        and weight is not None
        and weight.dim() == 1
        and getattr(module, "data_format", "channels_last") == "channels_last"
    )


def is_read(name: str, model_type: str) -> bool:
    """Whether the tokens of a model depend on a module or parameter, by its name: not on poolers
    and heads."""
    unread = UNREAD.get(model_type, ())
    return not POOLERS.search(name) and not any(
        name == each or name.startswith(f"{each}.") for each in unread
    )


class _Reader:
    """One reading of a model."""

    def __init__(self, model: "PreTrainedModel") -> None:
        self.model = model
        self.config: Any = model.config
        self.modules = dict(model.named_modules())
        self.halves = self._find_halves()
        self.blocks, self.stack = self._find_layers()

    def read(self) -> Architecture:
        norms = self._norms
        projections, attentions = self._projections
        return Architecture(
            model_type=self.config.model_type,
            blocks=self.blocks,
            stack=self.stack,
            width=self._width,
            linears=self._linears,
            norms=norms,
            attentions=attentions,
            projections=projections,
            query_width=self._query_width(projections, attentions),
            key_width=self._key_width(projections, attentions),
            norms_before_attention=self._norms_before_attention(),
            norms_before_mlp=self._norms_before_mlp(),
            mlp_sites=self._mlps(),
            after=frozenset(self._after()),
            is_causal=self._is_causal and not self.halves,
            rotates_keys=any(
                "rotary" in type(each).__name__.lower() or "rope" in type(each).__name__.lower()
                for each in self.modules.values()
            )
            or any(_inside(norm, attentions) for norm in norms),
            num_encoder_layers=len(self.halves[0]) if self.halves else 0,
            projects_positions=any(ends_in(name, "rel_embeddings") for name in self.modules),
        )

    def _find_halves(self) -> tuple[tuple[str, ...], ...]:
        """The layers of an encoder and of its decoder; nothing where the model is not both."""
        halves = []
        for half in ("encoder", "decoder"):
            lists = (
                [f"{name}.{number}" for number in range(len(module))]
                for name, module in self.modules.items()
                if name.startswith(f"{half}.")
                and isinstance(module, nn.ModuleList)
                and any(map(is_linear, module.modules()))
            )
            halves.append(tuple(next(lists, ())))
        return tuple(halves) if all(halves) and self.config.is_encoder_decoder else ()

    def _find_layers(self) -> tuple[tuple[str, ...], str | None]:
        if self.halves:
            return (*self.halves[0], *self.halves[1]), None
        lists = {n: m for n, m in self.modules.items() if isinstance(m, nn.ModuleList)}
        wanted = getattr(self.config, "num_hidden_layers", None)
        if not getattr(self.config, "depths", None):
            for name, found in lists.items():
                if len(found) == wanted and any(map(is_linear, found.modules())):
                    return tuple(f"{name}.{number}" for number in range(len(found))), name
        innermost = [
            name
            for name, found in lists.items()
            if all(any(map(is_linear, each.modules())) for each in found)
            and not any(inner.startswith(f"{name}.") for inner in lists)
        ]
        blocks = [f"{name}.{number}" for name in innermost for number in range(len(lists[name]))]
        return tuple(blocks), None

    @property
    def _width(self) -> int:
        sizes = getattr(self.config, "hidden_sizes", None)
        return int(sizes[-1] if sizes else self.config.hidden_size)

    @cached_property
    def _linears(self) -> dict[str, int]:
        return {
            name: number
            for number, block in enumerate(self.blocks)
            for name, module in self.modules.items()
            if name.startswith(f"{block}.") and is_linear(module)
        }

    @cached_property
    def _norms(self) -> dict[str, int | None]:
        # DeBERTa has one for its embeddings of positions, which are not a row's.
        positions = {
            f"{name.removesuffix('rel_embeddings')}LayerNorm"
            for name in self.modules
            if ends_in(name, "rel_embeddings")
        }
        return {
            name: number_of(name, self.blocks)
            for name, module in self.modules.items()
            if is_norm(module) and is_read(name, self.config.model_type) and name not in positions
        }

    @cached_property
    def _projections(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What they are called, and the attention of each layer; nothing where none is found."""
        for names in (*PROJECTIONS, *((name,) for name in FUSED)):
            own = [name for name in self._linears if not CROSS.search(name)]
            found = [[n for n in own if ends_in(n, name)] for name in names]
            if self.blocks and all(len(each) == len(self.blocks) for each in found):
                return tuple(names), tuple(name.rsplit(".", 1)[0] for name in found[0])
        return (), ()

    def _query_width(self, projections: Sequence[str], attentions: Sequence[str]) -> int:
        if len(projections) == 3:
            return widths(self.modules[f"{attentions[-1]}.{projections[0]}"])[1]
        return self._width

    def _key_width(self, projections: Sequence[str], attentions: Sequence[str]) -> int:
        if len(projections) == 3:
            return widths(self.modules[f"{attentions[-1]}.{projections[1]}"])[1]
        heads = getattr(self.config, "num_attention_heads", None)
        if not isinstance(heads, int):
            return self._width
        shared = getattr(self.config, "num_key_value_heads", None) or heads
        return int(shared * (getattr(self.config, "head_dim", None) or self._width // heads))

    def _norms_before_attention(self) -> tuple[str, ...] | None:
        before = self._one_per_layer(NORMS_BEFORE_ATTENTION)
        if before is not None:
            return before
        if self.config.model_type == "opt" and self.config.do_layer_norm_before:
            return self._one_per_layer(("self_attn_layer_norm",))
        # Other models have a norm of this name before their attention.
        after = (*NORMS_AFTER_ATTENTION, *self._own_of_bart)
        return () if self._one_per_layer(after) is not None else None

    @property
    def _own_of_bart(self) -> tuple[str, ...]:
        is_post_norm = self.config.model_type == "bart" or (
            self.config.model_type == "opt" and not self.config.do_layer_norm_before
        )
        return ("self_attn_layer_norm",) if is_post_norm else ()

    def _norms_before_mlp(self) -> tuple[str, ...] | None:
        if self._norms_before_attention() == ():
            return ()
        if self.config.model_type == "opt":
            return self._one_per_layer(("final_layer_norm",))
        found = (self._one_per_layer((name,)) for name in NORMS_BEFORE_MLP)
        return next((each for each in found if each is not None), None)

    def _one_per_layer(self, endings: Sequence[str]) -> tuple[str, ...] | None:
        inside = [name for name, layer in self._norms.items() if layer is not None]
        found = tuple(name for name in inside if any(ends_in(name, each) for each in endings))
        return found if self.blocks and len(found) == len(self.blocks) else None

    def _mlps(self) -> tuple[Site, ...]:
        """Per layer, the first linear module outside the attention and the last that leads back to
        the width that the first reads. A gated MLP has two of the first kind."""
        found = []
        for number in range(len(self.blocks)):
            names = [n for n, layer in self._linears.items() if layer == number]
            names = [name for name in names if not self._is_of_attention(name)]
            site = _there_and_back([(name, *widths(self.modules[name])) for name in names])
            if site is None:
                return ()
            found.append(site)
        return tuple(found)

    def _is_of_attention(self, name: str) -> bool:
        parents = [name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)]
        return any(
            re.search(r"attention|attn", type(self.modules[each]).__name__, re.IGNORECASE)
            or re.search(r"(^|\.)(self_)?(attention|attn)$", each)
            for each in parents
        )

    def _after(self) -> Iterator[str]:
        if self.stack is None:
            return
        names = list(self.modules)
        last = max(at for at, name in enumerate(names) if name.startswith(f"{self.stack}."))
        # Some models register norms of their embeddings behind the layers.
        yield from (name for name in names[last + 1 :] if "embed" not in name)

    @property
    def _is_causal(self) -> bool:
        if self.config.model_type == "clip_text_model":
            return True
        return any(
            getattr(module, "is_causal", False) is True
            for name, module in self.modules.items()
            if number_of(name, self.blocks) is not None
        )


def widths(module: nn.Module) -> tuple[int, int]:
    """Input and output width of a linear module; twice the width of a norm."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    weight: Any = module.weight
    if weight.dim() == 1:
        return len(weight), len(weight)
    rows, columns = weight.shape
    return rows, columns


def _there_and_back(linears: Sequence[tuple[str, int, int]]) -> Site | None:
    """From the first module to the last that returns to its input's width; modules are names with
    input and output widths."""
    if not linears:
        return None
    first, width, inner = linears[0]
    # A gate may be one half of the first module's output.
    back = [name for name, i, o in linears[1:] if o == width and i in (inner, inner // 2)]
    return Site(first, back[-1]) if back else None


def _inside(name: str, modules: Sequence[str]) -> bool:
    return any(name.startswith(f"{module}.") and "output" not in name for module in modules)
