"""Where answers of tokens are in a model's inputs: behind their prompts on the same row, or apart
as what a decoder reads."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lamina.core import ANSWER_AT, DECODED, DECODED_MASK, KEYS

OF_DECODER = (DECODED, DECODED_MASK)
"""Inputs that a decoder reads."""


def prompts_of(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inputs that an encoder reads, where a decoder reads the answers."""
    return {name: each for name, each in inputs.items() if name not in (*OF_DECODER, KEYS)}


def answer_lengths(inputs: Mapping[str, Tensor]) -> Tensor:
    """int64 [N]: the number of tokens of each answer."""
    if DECODED_MASK in inputs:
        return inputs[DECODED_MASK].sum(dim=1)
    return inputs["attention_mask"].sum(dim=1) - inputs[ANSWER_AT]


def answer_positions(mask: Tensor, answer_at: Tensor) -> Tensor:
    """int64 [N, A]: the columns of the tokens from which the tokens of each answer are predicted.

    The first is the last token of the prompt. A is the length of the longest answer; a shorter
    answer repeats its last column.

    Args:
        mask: 1 at tokens, 0 at padding, [N, S].
        answer_at: How many tokens of each row come before its answer, [N].
    """
    starts = (mask.cumsum(dim=1) == 0).sum(dim=1)
    lengths = mask.sum(dim=1) - answer_at
    steps = torch.arange(int(lengths.max()), device=mask.device)
    steps = torch.minimum(steps[None], (lengths - 1)[:, None])
    return (starts + answer_at - 1)[:, None] + steps
