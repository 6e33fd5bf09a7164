"""Prefix tuning (Li and Liang, 2021; deep prompts as in P-Tuning v2): learned keys and values
before every layer's own."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lamina.adapters.base import AdapterKind, Tensors
from lamina.backbones.backbone import Backbone
from lamina.backbones.overlay import Overlay
from lamina.registry import InputError


@dataclass(frozen=True)
class Prefix(AdapterKind):
    """Keys and values at every layer, in PEFT's layout: one tensor [length, layers * 2 * dim]."""

    length: int = 10
    """Virtual tokens per layer (PEFT's `num_virtual_tokens`)."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise InputError(f"adapter.length: {self.length} is not positive")

    def initialise(self, backbone: Backbone, generator: torch.Generator) -> dict[str, Tensor]:
        """N(0, 1), as PEFT's embedding."""
        if not backbone.takes_prefixes:
            raise InputError(
                "adapter.kind: 'prefix' cannot reach the attention of a "
                f"{backbone.model_type!r} backbone"
            )
        width = backbone.architecture.num_layers * 2 * backbone.dim
        return {"prompt_embeddings": torch.randn(self.length, width, generator=generator)}

    def overlay(
        self,
        tensors: Tensors,
        backbone: Backbone,
        dropout: torch.Generator | None = None,
    ) -> Overlay:
        """Keys and values per layer; on BERT the input's positions move by the prefix, as they do
        in PEFT."""
        parts = tensors["prompt_embeddings"].unflatten(-1, (-1, 2, backbone.dim)).unbind(-3)
        prefixes = {layer: [(part[..., 0, :], part[..., 1, :])] for layer, part in enumerate(parts)}
        return Overlay(prefixes=prefixes, position_shift=self.length)

    def to_peft(
        self, tensors: Tensors, backbone: Backbone
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A PEFT prefix without its projection."""
        config = {
            "peft_type": "PREFIX_TUNING",
            "num_virtual_tokens": self.length,
            "token_dim": backbone.dim,
            "num_layers": backbone.architecture.num_layers,
            "num_attention_heads": backbone.model.config.num_attention_heads,
            "num_transformer_submodules": 1,
            "encoder_hidden_size": backbone.dim,
            "prefix_projection": False,
        }
        return config, dict(tensors)

    def from_peft(self, state: Tensors, backbone: Backbone) -> dict[str, Tensor]:
        """PEFT saves the same tensor under the same name."""
        return {"prompt_embeddings": state["prompt_embeddings"]}
