"""The query of an input: what a strategy's attention reads of it before the model does.

Of a text it is the maximum over the embeddings of its prompt's words (Zhao et al., 2024): the words
tell two kinds of prompts apart, where the features that a language model has of them are much
alike. An image has no words; its query is its frozen feature.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from lamina.adapters.model import AdaptedModel
from lamina.core import ANSWER_AT


def query_width(model: AdaptedModel) -> int:
    """Numbers of a query."""
    backbone = model.backbone
    return backbone.capabilities.word_width if backbone.modality == "text" else backbone.dim


@torch.no_grad()
def queries(model: AdaptedModel, inputs: Mapping[str, Tensor]) -> Tensor:
    """The queries of N inputs, float32 [N, `query_width`]. Padding and the tokens of answers are no
    words of a prompt."""
    if model.backbone.modality != "text":
        return model.frozen_features(inputs)
    ids = inputs["input_ids"]
    words = model.backbone.capabilities.word_embeddings(ids).float()
    mask = inputs.get("attention_mask", torch.ones_like(ids))
    is_asked = mask.bool()
    if ANSWER_AT in inputs:
        is_asked = is_asked & (mask.cumsum(dim=1) <= inputs[ANSWER_AT][:, None])
    return words.masked_fill(~is_asked[:, :, None], float("-inf")).amax(dim=1)
