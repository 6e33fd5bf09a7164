"""Rows whose answers are tokens, split into prompt and answer and joined again, for methods that
write rows of their own."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lamina.core import ANSWER_AT, DECODED, DECODED_MASK, IGNORED, Batch

INPUT = "input."
LABELS = "labels"
Pair = tuple[Tensor, Tensor]
"""The tokens of a prompt and of its answer, int64 [P] and [A]; the end token is part of an
answer."""


def taken_apart(batch: Batch) -> list[Pair]:
    """Each row as a pair, without padding."""
    own = batch.inputs["attention_mask"].bool()
    rows = [ids[shown] for ids, shown in zip(batch.inputs["input_ids"], own, strict=True)]
    if DECODED in batch.inputs:
        return list(zip(rows, said_in(batch.labels), strict=True))
    starts = batch.inputs[ANSWER_AT].tolist()
    return [(row[:start], row[start:]) for row, start in zip(rows, starts, strict=True)]


def put_together(pairs: Sequence[Pair], longest: int | None = None) -> Batch:
    """A batch of rows from prompts and answers, padded on the right; ids count from 0. The
    beginning of the prompt is cut where a row has more than `longest` tokens."""
    if longest is not None:
        rooms = [max(longest - len(answer), 0) for _, answer in pairs]
        pairs = [
            (prompt[max(len(prompt) - room, 0) :], answer)
            for (prompt, answer), room in zip(pairs, rooms, strict=True)
        ]
    rows = [torch.cat(pair) for pair in pairs]
    shown = [torch.ones_like(row) for row in rows]
    starts = torch.tensor([len(prompt) for prompt, _ in pairs], device=rows[0].device)
    inputs = {
        "input_ids": pad_sequence(rows, batch_first=True),
        "attention_mask": pad_sequence(shown, batch_first=True),
        ANSWER_AT: starts,
    }
    answers = [answer for _, answer in pairs]
    labels = pad_sequence(answers, batch_first=True, padding_value=IGNORED)
    return Batch(inputs, labels, torch.arange(len(rows)))


def put_apart(pairs: Sequence[Pair], start: int) -> Batch:
    """The same for a model whose encoder reads the prompts, and whose decoder reads `start` and the
    answers."""
    prompts, answers = [prompt for prompt, _ in pairs], [answer for _, answer in pairs]
    labels = pad_sequence(answers, batch_first=True, padding_value=IGNORED)
    shown = labels != IGNORED
    read = torch.cat([torch.full_like(labels[:, :1], start), labels[:, :-1]], dim=1)
    inputs = {
        "input_ids": pad_sequence(prompts, batch_first=True),
        "attention_mask": pad_sequence(list(map(torch.ones_like, prompts)), batch_first=True),
        DECODED: read.masked_fill(read == IGNORED, 0),
        DECODED_MASK: shown.long(),
    }
    return Batch(inputs, labels, torch.arange(len(pairs)))


def said_in(answers: Tensor) -> list[Tensor]:
    """The tokens of each answer of [N, A], without IGNORED."""
    return [row[row != IGNORED] for row in answers]


def remembered(rows: Batch) -> dict[str, Tensor]:
    """Rows as tensors by name, for a strategy's state."""
    inputs = {INPUT + name: value for name, value in rows.inputs.items()}
    return {**inputs, LABELS: rows.labels}


def drawn(kept: Mapping[str, Tensor], number: int, generator: torch.Generator) -> Batch | None:
    """At most `number` of the rows that `remembered` gave; None where that is no rows."""
    if not kept or number == 0:
        return None
    chosen = torch.randperm(len(kept[LABELS]), generator=generator)[:number]
    rows = {name: value[chosen.to(value.device)] for name, value in kept.items()}
    labels = rows.pop(LABELS)
    inputs = {name.removeprefix(INPUT): value for name, value in rows.items()}
    return Batch(inputs, labels, chosen).trimmed()
