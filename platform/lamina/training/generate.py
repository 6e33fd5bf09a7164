"""A strategy's answers to prompts, as texts."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lamina.adapters.model import AdaptedModel
from lamina.core import ANSWER_AT, IGNORED, Batch, Task
from lamina.strategies.base import Strategy

TOGETHER = 32
"""How many prompts are answered at a time. No answer depends on the others."""


def generate(
    strategy: Strategy,
    model: AdaptedModel,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 64,
    task: Task | None = None,
) -> list[str]:
    """The answers to prompts, by greedy decoding, in their order.

    Args:
        max_new_tokens: Tokens of an answer, at most; what is longer breaks off.
        task: As in `Strategy.predict`.

    Raises InputError where the backbone cannot answer in tokens.
    """
    if not prompts:
        return []
    inputs = model.backbone.inputs.encode_prompts(prompts, max_new_tokens)
    nothing = torch.zeros(len(prompts), 0, dtype=torch.int64)
    rows = Batch(inputs, nothing, torch.arange(len(prompts)))
    return model.backbone.inputs.texts_of(
        generated_tokens(strategy, model, rows, task, max_new_tokens)
    )


@torch.no_grad()
def generated_tokens(
    strategy: Strategy, model: AdaptedModel, data: Batch, task: Task | None, max_new_tokens: int
) -> Tensor:
    """The tokens generated behind the prompts of rows, int64 [N, L] on the CPU, in the order of the
    rows; IGNORED follows an answer."""
    found = torch.full((len(data), max_new_tokens), IGNORED, dtype=torch.int64)
    longest = 0
    for rows in _by_length(data):
        inputs = data[rows].trimmed().to(model.backbone.device).inputs
        tokens = strategy.generate(model, inputs, task, max_new_tokens)
        longest = max(longest, tokens.shape[1])
        found[rows, : tokens.shape[1]] = tokens.cpu()
    return found[:, :longest]


def _by_length(data: Batch) -> Iterator[Tensor]:
    """The indices of the rows in groups whose prompts have about one length."""
    lengths = data.inputs[ANSWER_AT] if ANSWER_AT in data.inputs else data.lengths()
    yield from lengths.argsort(stable=True).split(TOGETHER)
