"""Attention that can see a prefix: transformers' own scaled-dot-product attention, with keys and
values put before a layer's.

Registered under transformers' attention interface, so the model's code stays untouched and
BERT-like encoders and vision transformers take prefixes alike (vision transformers have no
`past_key_values` to carry them).
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lamina.backbones.overlay import rows_of
from lamina.backbones.unpadded import current

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "lamina"
PREFIXES = "lamina_prefixes"
"""The attribute of an attention module that holds the keys and values of the forward under way."""


def attention_with_prefix(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Every query [N, heads, S, d] attends to the prefixes of this layer and to its own S keys.
    Texts without padding come as one row; they are split into rows for the attention only."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    positions = current()
    if positions is not None:
        query, key, value = (
            positions.within(each.transpose(1, 2)).transpose(1, 2) for each in (query, key, value)
        )
        attention_mask = positions.visible
    own = key.shape[2]
    for prefix_key, prefix_value in getattr(module, PREFIXES, ()):
        key = torch.cat([_per_head(prefix_key, key), key], dim=2)
        value = torch.cat([_per_head(prefix_value, value), value], dim=2)
    added = key.shape[2] - own
    if added:
        if attention_mask is None and _is_causal(module, kwargs.get("is_causal")):
            # torch's own causal mask would begin with the prefix, and hide the texts' tokens.
            # Keys of tokens that were read before come first (`decoding`).
            attention_mask = torch.ones_like(query[:1, :1, :, :1], dtype=torch.bool)
            attention_mask = attention_mask.expand(-1, -1, -1, own).tril(own - query.shape[2])
        if attention_mask is not None:
            visible = True if attention_mask.dtype == torch.bool else 0.0
            attention_mask = nn.functional.pad(attention_mask, (added, 0), value=visible)
        if kwargs.get("position_bias") is not None:
            kwargs["position_bias"] = nn.functional.pad(kwargs["position_bias"], (added, 0))
    attended, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return attended if positions is None else positions.without(attended), None


def _is_causal(module: nn.Module, given: bool | None) -> bool:
    """Whether attention is causal, decided as in transformers' own where there is no mask."""
    return bool(getattr(module, "is_causal", True) if given is None else given)


def _per_head(prefix: Tensor, like: Tensor) -> Tensor:
    """The prefix of every row, [N, length, heads * d], as [N, heads, length, d]."""
    num_rows, heads, _, dim = like.shape
    rows = rows_of(prefix, num_rows)
    return rows.unflatten(2, (heads, dim)).transpose(1, 2).to(like.dtype)


def attend_with_prefixes(model: "PreTrainedModel") -> bool:
    """Let a model attend through `attention_with_prefix`; False where its code has no such seam."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if not model._supports_attention_backend:
        return False
    if getattr(model.config, "attn_logit_softcapping", None) is not None:
        # Gemma 2 squeezes what torch's attention does not show.
        model.set_attn_implementation("eager")
        return False
    AttentionInterface.register(NAME, attention_with_prefix)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
    return True
