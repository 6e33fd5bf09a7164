"""Prompt tuning (Lester et al., 2021): learned tokens before the input's own; in an image they
follow the CLS (VPT-shallow)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lamina.adapters.base import Tensors
from lamina.adapters.kinds._virtual_tokens import TENSOR, VirtualTokens
from lamina.backbones.backbone import Backbone
from lamina.backbones.overlay import Overlay


@dataclass(frozen=True)
class Prompt(VirtualTokens):
    """Tokens [length, dim] that enter with the input's embeddings."""

    def initialise(self, backbone: Backbone, generator: torch.Generator) -> dict[str, Tensor]:
        """N(0, 1), as PEFT's embedding."""
        backbone.capabilities.check_prompts(self.length, f"adapter.kind: {self.name!r}")
        return {
            TENSOR: torch.randn(self.length, backbone.capabilities.word_width, generator=generator)
        }

    def overlay(
        self, tensors: Tensors, backbone: Backbone, dropout: torch.Generator | None = None
    ) -> Overlay:
        """The tokens before the input."""
        return Overlay(prompts=[tensors[TENSOR]])

    def to_peft(
        self, tensors: Tensors, backbone: Backbone
    ) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """A PEFT prompt; PEFT has none for images."""
        if backbone.modality != "text":
            return None
        config = self.peft_config("PROMPT_TUNING", backbone)
        return {**config, "prompt_tuning_init": "RANDOM"}, dict(tensors)
