"""Rows that a language model writes by itself: what methods of generative replay share.

A row is said as a whole behind the end token: prompt, end token, answer, end token. The backbone is
frozen, so there is no embedding to learn for a token that would say "now write a row" or "here the
answer begins"; the end token, which no row has inside, stands for both. Where an encoder reads
prompts, it reads the end token alone and the decoder says a prompt; then the encoder reads that
prompt, as any other, and the decoder answers it.
"""

import torch
from torch import Tensor

from lamina.adapters.model import AdaptedModel
from lamina.backbones.decoding import Choice
from lamina.core import ANSWER_AT, Batch
from lamina.memory.token_rows import (
    Pair,
    put_apart,
    put_together,
    remembered,
    said_in,
    taken_apart,
)
from lamina.registry import InputError


def check_decoder_alone(model: AdaptedModel, name: str) -> None:
    """Raise InputError where the model of a strategy called `name` has an encoder too: its decoder
    cannot generate a prompt."""
    if model.backbone.architecture.has_decoder:
        raise InputError(
            f"strategy.name: {name!r} has the model say prompts, and the encoder of a "
            f"{model.backbone.architecture.model_type!r} model only reads them (allowed: causal "
            "language models)"
        )


def as_texts(batch: Batch, end: int, longest: int | None) -> Batch:
    """Rows as one text each, as they are generated. The beginning of a text of more than `longest`
    tokens is cut."""
    token = batch.inputs[ANSWER_AT].new_tensor([end])
    pairs = [(token, torch.cat([prompt, token, answer])) for prompt, answer in taken_apart(batch)]
    if longest is not None:
        pairs = [(first, rest[max(len(rest) - longest + 1, 0) :]) for first, rest in pairs]
    return put_together(pairs)


def whole_rows(model: AdaptedModel, batch: Batch) -> Batch:
    """Rows as the model is taught to write them: as they are said as a whole; where there is an
    encoder, prompts as answers to the end token."""
    inputs = model.backbone.inputs
    if not model.backbone.architecture.has_decoder:
        return as_texts(batch, inputs.end_token, inputs.max_length)
    end = batch.labels.new_tensor([inputs.end_token])
    prompts = [prompt for prompt, _ in taken_apart(batch)]
    said = [prompt if prompt[-1] == end else torch.cat([prompt, end]) for prompt in prompts]
    return _rows_for(model, [(end, each) for each in said])


@torch.no_grad()
def write_rows(model: AdaptedModel, number: int, longest: int, choose: Choice) -> list[Pair]:
    """Rows that the model generates; it begins `number` rows. A row is left out where its prompt or
    answer does not end within `longest` tokens (fewer where the model has no room), or is empty."""
    end = torch.tensor([model.backbone.inputs.end_token], device=model.backbone.device)
    longest = min(longest, max(room_of(model) // 2 - 1, 1))
    if model.backbone.architecture.has_decoder:
        asked = [each for each in ended(model, [end] * number, longest, choose) if len(each) > 1]
        answers = ended(model, asked, longest, choose) if asked else []
        pairs = zip(asked, answers, strict=True)
        return [(prompt, answer) for prompt, answer in pairs if len(answer) > 1]
    prompts = [each[:-1] for each in ended(model, [end] * number, longest, choose) if len(each) > 1]
    if not prompts:
        return []
    asked = [torch.cat([end, prompt, end]) for prompt in prompts]
    answers = ended(model, asked, longest, choose)
    pairs = zip(prompts, answers, strict=True)
    return [(prompt, answer) for prompt, answer in pairs if len(answer) > 1]


def rows_to_replay(
    model: AdaptedModel, number: int, longest: int, choose: Choice
) -> dict[str, Tensor]:
    """Generated rows for a strategy's state, as `write_rows` gives them; empty where no row has an
    end."""
    pairs = write_rows(model, number, longest, choose)
    return remembered(_rows_for(model, pairs)) if pairs else {}


def _rows_for(model: AdaptedModel, pairs: list[Pair]) -> Batch:
    """Rows as the model takes them."""
    if model.backbone.architecture.has_decoder:
        return put_apart(pairs, model.backbone.capabilities.decoder_start)
    return put_together(pairs, model.backbone.inputs.max_length)


def room_of(model: AdaptedModel) -> int:
    """How many tokens a text may have."""
    room = model.backbone.inputs.max_length
    assert room is not None, "a language model reads texts"
    return room


def ended(
    model: AdaptedModel,
    prompts: list[Tensor],
    longest: int,
    choose: Choice | None = None,
    adapters: list[str] | None = None,
) -> list[Tensor]:
    """The tokens generated behind each prompt, with the end token; empty where it does not come
    within `longest` tokens. Other arguments are those of `AdaptedModel.generate`."""
    nothing = prompts[0][:0]
    # A decoder is asked for an answer of one token at least.
    least = prompts[0][:1] if model.backbone.architecture.has_decoder else nothing
    inputs = _rows_for(model, [(prompt, least) for prompt in prompts]).inputs
    said = said_in(model.generate(inputs, longest, adapters=adapters, choose=choose))
    end = model.backbone.inputs.end_token
    return [each if len(each) and int(each[-1]) == end else nothing for each in said]
