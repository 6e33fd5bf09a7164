"""Prefix tuning (Li and Liang, 2021; deep prompts as in P-Tuning v2): learned keys and values
before every layer's own."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lamina.adapters.base import Tensors
from lamina.adapters.kinds._virtual_tokens import TENSOR, VirtualTokens
from lamina.backbones.backbone import Backbone
from lamina.backbones.overlay import Overlay


@dataclass(frozen=True)
class Prefix(VirtualTokens):
    """Keys and values at every layer, in PEFT's layout: one tensor [length, layers * 2 * dim].
    Where queries share keys and values, dim is that of the keys."""

    def initialise(self, backbone: Backbone, generator: torch.Generator) -> dict[str, Tensor]:
        """N(0, 1), as PEFT's embedding."""
        backbone.capabilities.check_prefixes(f"adapter.kind: {self.name!r}")
        if backbone.capabilities.counts_prefixes:
            backbone.capabilities.check_positions(self.length, f"adapter.kind: {self.name!r}")
        width = backbone.architecture.num_layers * 2 * backbone.architecture.key_width
        return {TENSOR: torch.randn(self.length, width, generator=generator)}

    def overlay(
        self, tensors: Tensors, backbone: Backbone, dropout: torch.Generator | None = None
    ) -> Overlay:
        """Keys and values per layer; where a model counts cached keys as positions, the input's
        positions move by the prefix, as they do in PEFT."""
        key_width = backbone.architecture.key_width
        pairs = tensors[TENSOR].unflatten(-1, (-1, 2, key_width)).unbind(-3)
        prefixes = {layer: [(pair[..., 0, :], pair[..., 1, :])] for layer, pair in enumerate(pairs)}
        return Overlay(prefixes=prefixes, position_shift=self.length)

    def to_peft(
        self, tensors: Tensors, backbone: Backbone
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A PEFT prefix without its projection."""
        config = self.peft_config("PREFIX_TUNING", backbone)
        architecture = backbone.architecture
        width = architecture.key_width
        config |= {
            "token_dim": width,
            "num_attention_heads": backbone.capabilities.num_heads
            * width
            // architecture.query_width,
            "encoder_hidden_size": architecture.width,
            "prefix_projection": False,
        }
        return config, dict(tensors)
