"""Prompt tuning (Lester et al., 2021): learned tokens before the input's own; in an image they
follow the CLS (VPT-shallow)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lamina.adapters.base import AdapterKind, Tensors
from lamina.backbones.backbone import Backbone
from lamina.backbones.overlay import Overlay
from lamina.registry import InputError


@dataclass(frozen=True)
class Prompt(AdapterKind):
    """Tokens [length, dim] that enter with the input's embeddings."""

    length: int = 10
    """Virtual tokens (PEFT's `num_virtual_tokens`)."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise InputError(f"adapter.length: {self.length} is not positive")

    def initialise(self, backbone: Backbone, generator: torch.Generator) -> dict[str, Tensor]:
        """N(0, 1), as PEFT's embedding."""
        return {"prompt_embeddings": torch.randn(self.length, backbone.dim, generator=generator)}

    def overlay(
        self,
        tensors: Tensors,
        backbone: Backbone,
        dropout: torch.Generator | None = None,
    ) -> Overlay:
        """The tokens before the input."""
        return Overlay(prompts=[tensors["prompt_embeddings"]])

    def to_peft(
        self, tensors: Tensors, backbone: Backbone
    ) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """A PEFT prompt; PEFT has none for images."""
        if backbone.modality != "text":
            return None
        config = {
            "peft_type": "PROMPT_TUNING",
            "num_virtual_tokens": self.length,
            "token_dim": backbone.dim,
            "num_layers": backbone.architecture.num_layers,
            "num_attention_heads": backbone.model.config.num_attention_heads,
            "num_transformer_submodules": 1,
            "prompt_tuning_init": "RANDOM",
        }
        return config, dict(tensors)

    def from_peft(self, state: Tensors, backbone: Backbone) -> dict[str, Tensor]:
        """PEFT saves the same tensor under the same name."""
        return {"prompt_embeddings": state["prompt_embeddings"]}
