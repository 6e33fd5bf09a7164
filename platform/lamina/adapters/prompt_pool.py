"""A prompt pool: every input picks its own prompts by similarity to learned keys (L2P)."""

from collections.abc import Mapping

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters.base import uniform
from lamina.adapters.model import AdaptedModel
from lamina.backbones.overlay import Overlay
from lamina.core import generator_of
from lamina.registry import InputError

POOL = "pool"
"""The adapter that holds `keys` [pool_size, dim] and `prompts` [pool_size, length, width of a token
that enters the backbone]."""


def check_pool(pool_size: int, length: int, top_k: int) -> None:
    """Raise InputError for sizes of a pool that are not possible."""
    for name, value in (("pool_size", pool_size), ("length", length), ("top_k", top_k)):
        if value < 1:
            raise InputError(f"strategy.{name}: {value} is not positive")
    if top_k > pool_size:
        raise InputError(f"strategy.top_k: {top_k} is more than the pool holds ({pool_size})")


def add_pool(model: AdaptedModel, pool_size: int, length: int) -> None:
    """Keys and prompts from U(-1, 1), as in L2P's PyTorch code. Raises InputError where no prompts
    can enter the backbone."""
    model.backbone.capabilities.check_prompts(length, "strategy.name: its prompts")
    dim, width = model.backbone.dim, model.backbone.capabilities.word_width
    generator = generator_of(model.seed, "adapter", POOL)
    keys = uniform((pool_size, dim), 1.0, generator)
    prompts = uniform((pool_size, length, width), 1.0, generator)
    model.add_tensors(POOL, {"keys": keys, "prompts": prompts})


def pick(model: AdaptedModel, query: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The prompts of the keys nearest to each query [N, dim], int64 [N, top_k], and the keys'
    cosine similarities [N, top_k]."""
    keys = F.normalize(model.adapters[POOL].tensors["keys"], dim=1)
    similarity, picked = (F.normalize(query, dim=1) @ keys.T).topk(top_k, dim=1)
    return picked, similarity


def prompts_of(model: AdaptedModel, picked: Tensor) -> Tensor:
    """The tokens of the picked prompts [N, top_k], one prompt after the other [N, top_k * length,
    dim]."""
    return model.adapters[POOL].tensors["prompts"][picked].flatten(1, 2)


def prompted_logits(model: AdaptedModel, inputs: Mapping[str, Tensor], picked: Tensor) -> Tensor:
    """Logits with the picked prompts [N, top_k] before each input. They come from the head [N,
    classes], which reads the mean of the prompts' output tokens; where answers are tokens, they are
    [N, A, V]."""
    hidden = model.backbone(inputs, Overlay(prompts=[prompts_of(model, picked)]))
    if hidden.answers is not None:
        return model.backbone.language_head.of_answers(hidden.answers, inputs)
    assert hidden.prompts is not None
    return model.logits(hidden.prompts)
