"""Greedy decoding: a language model generates answers behind prompts, one token at a time.

Keys and values of all tokens so far are cached, so each step runs one token of every row. Prompts
end in one column: padding stands on their left, under a mask, and positions are counted without it.
Rows that have generated their end token leave once they are half of those that run. Where rows
belong to several overlays, or draw their tokens together, they stay until all have.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lamina.core import ANSWER_AT, DECODED, DECODED_MASK, IGNORED

_READ_ONCE = ("input_ids", "inputs_embeds")

Choice = Callable[[Tensor], Tensor]
"""The next tokens, int64 [N], of logits [N, V]."""


def likeliest(logits: Tensor) -> Tensor:
    """The token with the largest logit: greedy decoding."""
    return logits.argmax(dim=-1)


@dataclass(frozen=True)
class Drawn:
    """Sampling: a token drawn by its probability, among the likeliest."""

    generator: torch.Generator
    """On the CPU, so that every device draws alike."""
    top_k: int | None = None
    """How many of the likeliest tokens may be drawn; None: all."""
    temperature: float = 1.0
    """Logits are divided by it."""

    def __call__(self, logits: Tensor) -> Tensor:
        number = min(self.top_k or logits.shape[1], logits.shape[1])
        values, tokens = (logits.float().cpu() / self.temperature).topk(number, dim=1)
        drawn = torch.multinomial(values.softmax(dim=1), 1, generator=self.generator)
        return tokens.gather(1, drawn)[:, 0].to(logits.device)


def left_padded(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The prompts of N rows without their answers: `input_ids` and `attention_mask` [N, P]. Each
    prompt ends in the last column."""
    starts, number = _where(inputs)
    longest = int(number.max())
    offsets = torch.arange(longest, device=number.device) - (longest - number)[:, None]
    ids = inputs["input_ids"].gather(1, starts[:, None] + offsets.clamp_min(0))
    return {"input_ids": ids, "attention_mask": (offsets >= 0).to(inputs["attention_mask"].dtype)}


def _where(inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The column in which each row's prompt begins, and how many tokens it has, [N] each."""
    mask = inputs["attention_mask"]
    number = inputs[ANSWER_AT] if ANSWER_AT in inputs else mask.sum(dim=1)
    return (mask.cumsum(dim=1) == 0).sum(dim=1), number


class _Answers:
    """The answers of N rows, collected one token at a time. The end token is part of an answer, and
    IGNORED follows it."""

    def __init__(self, max_new_tokens: Tensor, end: int) -> None:
        self.steps = range(int(max_new_tokens.max()))
        self._tokens = max_new_tokens.new_full((len(max_new_tokens), len(self.steps)), IGNORED)
        self._rows = torch.arange(len(max_new_tokens), device=max_new_tokens.device)
        """Those that run, [M]."""
        self._goes_on = torch.ones_like(max_new_tokens, dtype=torch.bool)
        self._num_going_on = len(max_new_tokens)
        self._max_new_tokens = max_new_tokens
        self._end = end
        self._length = 0

    def add(self, tokens: Tensor) -> bool:
        """Add the next tokens [M] of the rows that run. Returns whether any of them goes on."""
        self._tokens[self._rows, self._length] = torch.where(self._goes_on, tokens, IGNORED)
        self._length += 1
        self._goes_on &= (tokens != self._end) & (self._length < self._max_new_tokens)
        self._num_going_on = int(self._goes_on.sum())
        return self._num_going_on > 0

    def drop(self) -> Tensor | None:
        """The places, among the rows that run, of those that go on, where these are half or fewer:
        they alone run from now on. Else None."""
        if 2 * self._num_going_on > len(self._rows):
            return None
        kept = self._goes_on.nonzero()[:, 0]
        self._rows, self._max_new_tokens = self._rows[kept], self._max_new_tokens[kept]
        self._goes_on = self._goes_on[kept]
        return kept

    def tokens(self) -> Tensor:
        """The answers so far, int64 [N, L]."""
        return self._tokens[:, : self._length]


def decoded(
    forward: Callable[[Mapping[str, Any]], Tensor],
    best: Callable[[Tensor], Tensor],
    prompts: Mapping[str, Tensor],
    *,
    max_new_tokens: Tensor,
    end: int,
    first_position: int | None,
    cache: Any,
    embed: nn.Module,
    drops: bool,
) -> tuple[Tensor, Tensor]:
    """The tokens generated behind N prompts, int64 [N, L]: the end token is part, and IGNORED what
    follows; and the hidden states of the prompts [N, P, dim].

    Args:
        forward: Hidden states [N, S, dim] of a model's arguments.
        best: The next token int64 [N] of hidden states [N, dim].
        prompts: The model's arguments, `attention_mask` [N, P] among them.
        max_new_tokens: Tokens of each answer at most, int64 [N].
        end: The token that ends an answer.
        first_position: The number of the first token's position; None where the model is not told
            positions.
        cache: Where transformers keeps keys and values; None: every step runs all tokens.
        embed: The model's words, for prompts that are embedded already.
        drops: Whether `forward` and `best` give rows the same without the others.
    """
    given: dict[str, Any] = dict(prompts)
    mask = prompts["attention_mask"]
    answers = _Answers(max_new_tokens, end)
    prompt: Tensor | None = None
    for at in answers.steps:
        if first_position is not None:
            positions = (mask.cumsum(dim=1) - 1).clamp_min(0) + first_position
            given["position_ids"] = positions if cache is None or at == 0 else positions[:, -1:]
        if cache is not None:
            given |= {"past_key_values": cache, "use_cache": True}
        hidden = forward({**given, "attention_mask": mask})
        prompt = hidden if prompt is None else prompt
        token = best(hidden[:, -1])
        if not answers.add(token):
            break
        kept = answers.drop() if drops else None
        if kept is not None:
            token, mask = token[kept], mask[kept]
            given = _only(kept, given)
            if cache is not None:
                cache.batch_select_indices(kept)
        mask = nn.functional.pad(mask, (0, 1), value=1)
        if cache is not None:
            given = {"input_ids": token[:, None]}
        elif "inputs_embeds" in given:
            word = embed(token[:, None])
            given["inputs_embeds"] = torch.cat([given["inputs_embeds"], word], dim=1)
        else:
            given["input_ids"] = torch.cat([given["input_ids"], token[:, None]], dim=1)
    assert prompt is not None, "at least one token is generated"
    return answers.tokens(), prompt


def decoded_by_decoder(
    forward: Callable[[Mapping[str, Any]], Any],
    best: Callable[[Tensor], Tensor],
    prompts: Mapping[str, Any],
    start: Tensor,
    *,
    max_new_tokens: Tensor,
    end: int,
    cache: Any,
    drops: bool,
) -> tuple[Tensor, Tensor]:
    """As `decoded`, by a model with encoder and decoder. The encoder reads the prompts once; the
    decoder reads `start` [N, 1] first. Returns the generated tokens, and the encoder's output [N,
    P, dim]."""
    given: dict[str, Any] = dict(prompts)
    answers = _Answers(max_new_tokens, end)
    token = start[:, 0]
    for at in answers.steps:
        kept_so_far = {"past_key_values": cache, "use_cache": True}
        output = forward({**given, **kept_so_far, DECODED: token[:, None]})
        if at == 0:
            encoded = read = output.encoder_last_hidden_state
            given = {name: each for name, each in given.items() if name not in _READ_ONCE}
        token = best(output.last_hidden_state[:, -1])
        if not answers.add(token):
            break
        kept = answers.drop() if drops else None
        if kept is not None:
            token, read = token[kept], read[kept]
            given = _only(kept, given)
            cache.batch_select_indices(kept)
        given["encoder_outputs"] = type(output)(last_hidden_state=read)
    return answers.tokens(), encoded


def _only(kept: Tensor, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of some rows alone."""
    return {name: each[kept] for name, each in given.items() if isinstance(each, Tensor)}


def decoded_by(
    logits: Callable[[Mapping[str, Tensor]], Tensor],
    inputs: Mapping[str, Tensor],
    *,
    max_new_tokens: int,
    end: int,
) -> Tensor:
    """As `decoded`, with any function that gives the logits [N, A, V] of answer tokens. Each step
    reads all tokens again, because nothing is known of how the logits are computed."""
    if DECODED in inputs:
        return _by_decoder(logits, inputs, max_new_tokens, end)
    mask = inputs["attention_mask"]
    starts, number = _where(inputs)
    columns = starts[:, None] + torch.arange(int(number.max()) + max_new_tokens, device=mask.device)
    ids = inputs["input_ids"].gather(1, columns.clamp_max(mask.shape[1] - 1))
    answers = _Answers(torch.full_like(number, max_new_tokens), end)
    for at in answers.steps:
        # One token more than was generated, whatever it is: its logits are asked for.
        width = ids.shape[1] - max_new_tokens + at + 1
        shown = torch.arange(width, device=mask.device) < (number + at + 1)[:, None]
        rows = {"input_ids": ids[:, :width], "attention_mask": shown.to(mask.dtype)}
        token = logits({**rows, ANSWER_AT: number})[:, at].argmax(dim=-1)
        if not answers.add(token):
            break
        ids.scatter_(1, (number + at)[:, None], token[:, None])
        kept = answers.drop()
        if kept is not None:
            ids, number = ids[kept], number[kept]
    return answers.tokens()


def _by_decoder(
    logits: Callable[[Mapping[str, Tensor]], Tensor],
    inputs: Mapping[str, Tensor],
    max_new_tokens: int,
    end: int,
) -> Tensor:
    """`decoded_by` of a model with a decoder, which reads what has been generated so far."""
    read = inputs[DECODED][:, :1]
    answers = _Answers(torch.full_like(read[:, 0], max_new_tokens), end)
    for at in answers.steps:
        shown = {**inputs, DECODED: read, DECODED_MASK: torch.ones_like(read)}
        token = logits(shown)[:, at].argmax(dim=-1)
        if not answers.add(token):
            break
        read = torch.cat([read, token[:, None]], dim=1)
        kept = answers.drop()
        if kept is not None:
            read, inputs = read[kept], _only(kept, inputs)
    return answers.tokens()
