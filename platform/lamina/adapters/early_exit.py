"""An early exit: the features that a backbone would give if it ended below one of its layers."""

from collections.abc import Mapping

from torch import Tensor

from lamina.backbones.backbone import Backbone
from lamina.backbones.overlay import Overlay, Site


def with_early_exit(
    backbone: Backbone, inputs: Mapping[str, Tensor], overlay: Overlay, layer: int
) -> tuple[Tensor, Tensor]:
    """Features [N, dim] of the backbone under an overlay without prompts, and [N, dim] from the
    tokens that the attention of `layer` reads, pooled as the backbone pools its last ones.

    One forward for both. In a vision transformer the tokens have passed that layer's normalisation.
    """
    parts = backbone.architecture
    query = f"{parts.attentions[layer]}.{parts.query_and_value[0]}"
    seen: list[Tensor] = []

    def read(x: Tensor, y: Tensor) -> Tensor:
        seen.append(x)
        return y

    reading = Overlay(patches={Site(query, query): [read]})
    features = backbone(inputs, reading | overlay).features
    tokens, mask = seen[0].float(), inputs.get("attention_mask")
    if backbone.pooling == "first":
        return features, tokens[:, 0]
    if mask is None:
        return features, tokens.mean(dim=1)
    weights = mask.to(tokens.dtype)[:, :, None]
    return features, (tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1.0)
