"""VPT-deep (Jia et al., 2022): fresh learned tokens enter every layer, and leave it again."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.adapters.base import Tensors, uniform
from lamina.adapters.kinds._virtual_tokens import TENSOR, VirtualTokens
from lamina.backbones.backbone import Backbone
from lamina.backbones.overlay import Overlay


@dataclass(frozen=True)
class VPTDeep(VirtualTokens):
    """Tokens [layers, length, dim].

    The outputs of these tokens are dropped after every layer (Section 3.2). So the input's tokens
    only ever see their keys and values. That is a prefix which the layer's frozen projections
    compute, and so it is laid over here. An adapter on those projections that is active at once
    (LoRA) does not see these tokens.
    """

    def initialise(self, backbone: Backbone, generator: torch.Generator) -> dict[str, Tensor]:
        """Xavier uniform as between a patch of the image and a token, as in the authors' code; in a
        text, between two tokens."""
        backbone.capabilities.check_projections(f"adapter.kind: {self.name!r}")
        architecture, config = backbone.architecture, backbone.model.config
        patch = getattr(config, "patch_size", None)
        fan_in = architecture.width if patch is None else config.num_channels * patch**2
        shape = (architecture.num_layers, self.length, architecture.width)
        return {TENSOR: uniform(shape, (6 / (fan_in + architecture.width)) ** 0.5, generator)}

    def overlay(
        self, tensors: Tensors, backbone: Backbone, dropout: torch.Generator | None = None
    ) -> Overlay:
        """The keys and values of each layer's tokens."""
        tokens = tensors[TENSOR]
        return Overlay(
            prefixes={
                layer: [backbone.keys_and_values(tokens.select(-3, layer), layer)]
                for layer in range(tokens.shape[-3])
            }
        )
