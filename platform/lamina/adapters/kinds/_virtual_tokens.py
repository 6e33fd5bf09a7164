"""What the kinds that learn virtual tokens share with PEFT: a length, and one tensor called
`prompt_embeddings`."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lamina.adapters.base import AdapterKind, Tensors
from lamina.backbones.backbone import Backbone
from lamina.registry import InputError

TENSOR = "prompt_embeddings"


@dataclass(frozen=True)
class VirtualTokens(AdapterKind):
    """Learned tokens."""

    length: int = 10
    """How many virtual tokens (PEFT's `num_virtual_tokens`); the number per layer, where every
    layer has its own."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise InputError(f"adapter.length: {self.length} is not positive")

    def from_peft(self, state: Tensors, backbone: Backbone) -> dict[str, Tensor]:
        """PEFT saves the same tensor under the same name."""
        return {TENSOR: state[TENSOR]}

    def peft_config(self, peft_type: str, backbone: Backbone) -> dict[str, Any]:
        """The entries that all of PEFT's prompt-learning configurations need."""
        return {
            "peft_type": peft_type,
            "num_virtual_tokens": self.length,
            "token_dim": backbone.capabilities.word_width,
            "num_layers": backbone.architecture.num_layers,
            "num_attention_heads": backbone.capabilities.num_heads,
            "num_transformer_submodules": 1,
        }
