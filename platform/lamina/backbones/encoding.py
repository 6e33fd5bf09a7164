"""From texts and images to the tensors a model takes: the tokenizer or image processor that came
with its weights."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from lamina.backbones.locate import config_of
from lamina.backbones.padding import with_padding
from lamina.backbones.pixels import ImageEncoder
from lamina.backbones.weights import reads_images
from lamina.core import (
    ANSWER_AT,
    DECODED,
    DECODED_MASK,
    IGNORED,
    PARTS,
    Conversation,
    LazyInput,
    Modality,
    Samples,
    Stream,
)
from lamina.registry import InputError

LONGEST_TEXT = 512
"""Tokens of the longest text, for a model that does not say how long its texts were."""
_POSITIONS_AFTER_PADDING = (
    "camembert",
    "data2vec-text",
    "ibert",
    "longformer",
    "luke",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)
"""Models that count positions from the one after that of the padding token."""


class Encoder(Protocol):
    """Turns values of a stream into a model's inputs."""

    @property
    def modality(self) -> Modality:
        """What it reads."""
        ...

    @property
    def pooling(self) -> Literal["mean", "first"]:
        """How the model's tokens become one feature, if the job does not say."""
        ...

    def __call__(self, values: Sequence[Any]) -> Mapping[str, Tensor | LazyInput]:
        """Inputs of N values, each [N, ...]. For lazy values, they are made when they are
        needed."""
        ...

    def num_cut(self, values: Sequence[Any]) -> int:
        """How many values are cut because they are too long."""
        ...


@dataclass(frozen=True)
class TextEncoder:
    """A tokenizer, and how many tokens the longest text may have."""

    tokenizer: Any
    max_length: int
    pooling: Literal["mean", "first"]
    modality: Modality = "text"

    def __call__(self, values: Sequence[str]) -> Mapping[str, Tensor | LazyInput]:
        encoded = self.tokenizer(
            list(values),
            padding=self.padding,
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
            return_attention_mask=True,
        )
        if self.padding == "max_length":
            encoded["attention_mask"] = torch.ones_like(encoded["input_ids"])
        return dict(encoded)

    def with_answers(
        self, prompts: Sequence[str], answers: Sequence[str], ids: Sequence[int] | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Inputs of N prompts, each followed by its answer, padded on the right, and the answers'
        tokens int64 [N, A] with IGNORED behind those that are shorter. `ids`: their numbers in the
        stream, for people.

        Prompt and answer are tokenised apart, so that no token is half of either; an answer ends in
        the end token. Of what is too long the beginning of the prompt is cut, and nothing of the
        answer. Raises InputError for an answer that leaves no room for a prompt.
        """
        asked = self._asked(prompts)
        labels = self._said(answers, ids)
        rows = [
            [*prompt[-(self.max_length - len(answer)) :], *answer]
            for prompt, answer in zip(asked, labels, strict=True)
        ]
        inputs = self._padded(rows)
        targets = _answers_padded(labels)
        counts = (targets != IGNORED).sum(dim=1)
        return {**inputs, ANSWER_AT: inputs["attention_mask"].sum(dim=1) - counts}, targets

    def with_decoded(
        self,
        prompts: Sequence[str],
        answers: Sequence[str],
        start: int,
        ids: Sequence[int] | None = None,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Inputs of N prompts for an encoder, and of their answers for a decoder that reads `start`
        first; and the answers' tokens int64 [N, A], IGNORED behind those that are shorter.

        An answer has the special tokens that its tokenizer puts around a text, the end token among
        them. Of a prompt that is too long the beginning is cut. Raises InputError for an answer
        that is too long.
        """
        asked = [each[-self.max_length :] for each in self._asked(prompts)]
        labels = self._said(answers, ids, special=True)
        targets = _answers_padded(labels)
        mask = (targets != IGNORED).long()
        read = torch.cat([torch.full_like(targets[:, :1], start), targets[:, :-1]], dim=1)
        decoded = read.masked_fill(read == IGNORED, self.tokenizer.pad_token_id)
        return {**self._padded(asked), DECODED: decoded, DECODED_MASK: mask}, targets

    def num_cut_prompts(
        self, prompts: Sequence[str], answers: Sequence[str], ids: Sequence[int]
    ) -> int:
        """How many prompts are cut for the sake of their answers. Raises InputError as
        `with_answers` does."""
        asked, said = self._asked(prompts), self._said(answers, ids)
        return sum(len(p) + len(a) > self.max_length for p, a in zip(asked, said, strict=True))

    def _asked(self, prompts: Sequence[str]) -> list[list[int]]:
        """The tokens of prompts. Each prompt has at least one token, from which the first token of
        the answer is predicted."""
        tokenizer = self.tokenizer
        texts = [self._templated(each) for each in prompts]
        asked = [
            tokenizer(text, add_special_tokens=not isinstance(prompt, Conversation))["input_ids"]
            for text, prompt in zip(texts, prompts, strict=True)
        ]
        first = tokenizer.bos_token_id
        return [each or [tokenizer.eos_token_id if first is None else first] for each in asked]

    def _templated(self, prompt: str) -> str:
        """A conversation, formatted by the tokenizer's chat template; any other prompt as it is."""
        if not isinstance(prompt, Conversation):
            return prompt
        if self.tokenizer.chat_template is None:
            raise InputError(
                "stream.template: 'chat' needs a tokenizer with a chat template, and that of the "
                "backbone has none (allowed: plain)"
            )
        turns = [{"role": role, "content": text} for role, text in prompt.turns]
        try:
            text: str = self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # A template raises what its author wrote into it.
            raise InputError(
                f"stream.template: the tokenizer's chat template refuses a prompt: {error} "
                f"({shorten(prompt, 60)!r})"
            ) from error
        return text

    def _said(
        self, answers: Sequence[str], ids: Sequence[int] | None, special: bool = False
    ) -> list[list[int]]:
        """The tokens of answers, each with the end token, and with the `special` ones before it."""
        tokenizer = self.tokenizer
        if tokenizer.eos_token_id is None:
            raise InputError(
                "backbone.name: its tokenizer has no end token, in which an answer ends (allowed: "
                "a tokenizer with eos_token)"
            )
        said = [
            tokens if tokens[-1:] == [tokenizer.eos_token_id] else [*tokens, tokenizer.eos_token_id]
            for tokens in tokenizer(list(answers), add_special_tokens=special)["input_ids"]
        ]
        for index, tokens in enumerate(said):
            if len(tokens) >= self.max_length:
                row = (index if ids is None else ids[index]) + 1
                raise InputError(
                    f"backbone.max_length: the answer of row {row} of the stream has "
                    f"{len(tokens)} tokens, which leaves no room for its prompt (given: "
                    f"{self.max_length}): "
                    f"{shorten(answers[index], 60)!r}"
                )
        return said

    def _padded(self, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """Rows of tokens, padded on the right, with their mask."""
        length = max(map(len, rows))
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        padding = self.tokenizer.pad_token_id
        ids = torch.tensor([[*row, *[padding] * (length - len(row))] for row in rows])
        return {"input_ids": ids, "attention_mask": mask}

    def num_cut(self, values: Sequence[str]) -> int:
        """How many texts have more than `max_length` tokens."""
        room = self.max_length - self.tokenizer.num_special_tokens_to_add()
        # A token is a byte at least, so that most texts need not be tokenised. Normalising makes
        # up to six letters a byte of what is not ASCII, and some tokenizers put a blank in front.
        long = [
            text for text in values if len(text.encode()) * (1 if text.isascii() else 6) + 1 > room
        ]
        if not long:
            return 0
        # One token more than fits tells whether a text is cut.
        encoded = self.tokenizer(long, truncation=True, max_length=self.max_length + 1)
        return sum(len(tokens) > self.max_length for tokens in encoded["input_ids"])

    @property
    def padding(self) -> Literal["longest", "max_length"]:
        """To the longest text of a call; always to one length where the model was trained without
        a mask, and so on texts of one length (SigLIP)."""
        masks = "attention_mask" in self.tokenizer.model_input_names
        return "longest" if masks else "max_length"


def cut_note(stream: Stream[Samples], encoder: Encoder) -> Mapping[str, Any] | None:
    """A note for a stream's record that says how many texts an encoder cuts; None where none is.
    Raises InputError for an answer that is too long to be kept whole."""
    parts = [each.part(name) for each in stream.experiences for name in PARTS]
    total = sum(len(part) for part in parts)
    number = sum(_num_cut(part, encoder) for part in parts)
    if number == 0 or not isinstance(encoder, TextEncoder):
        return None
    are, what, where = ("is", "are")[number > 1], "texts", ""
    if stream.answers == "tokens":
        what, where = "prompts with their answers", " at their beginning"
    most = encoder.max_length
    return {
        "about": "cut_texts",
        "texts": number,
        "of": total,
        "max_length": most,
        "line": f"{number:,} of {total:,} {what} {are} longer than {most} tokens and {are} cut"
        f"{where} (backbone.max_length)",
    }


def _num_cut(part: Samples, encoder: Encoder) -> int:
    if part.targets is None or not isinstance(encoder, TextEncoder):
        return encoder.num_cut(part.values)
    return encoder.num_cut_prompts(part.values, part.targets, part.ids.tolist())


def _answers_padded(labels: Sequence[Sequence[int]]) -> Tensor:
    """int64 [N, A] with IGNORED on the right of those that are shorter than A."""
    longest = max(map(len, labels))
    return torch.tensor([[*each, *[IGNORED] * (longest - len(each))] for each in labels])


def load_encoder(location: str, max_length: int | None, config: Any = None) -> Encoder:
    """The encoder that belongs to the model at `location`, or to the part of it that has this
    configuration. Raises InputError when it has none."""
    config = config or config_of(location)
    if reads_images(config):
        # Importing it takes longer than all else that a text backbone needs of transformers.
        from transformers import AutoImageProcessor

        return ImageEncoder(_loaded("image processor", AutoImageProcessor, location, backend="pil"))
    from transformers import AutoTokenizer

    tokenizer = _loaded("tokenizer", AutoTokenizer, location)
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        # transformers makes one up for models whose folder has none.
        raise InputError(
            f"backbone.name: {location!r} has no tokenizer (its vocabulary is empty: is "
            "tokenizer.json missing?)"
        )
    tokenizer = with_padding(tokenizer)
    most = _most_tokens(tokenizer, config)
    trained = _sentence_transformers(location, "sentence_bert_config.json").get("max_seq_length")
    usual = min(trained or LONGEST_TEXT, most or LONGEST_TEXT)
    least = tokenizer.num_special_tokens_to_add() + 1
    if max_length is not None and most is not None and max_length > most:
        raise InputError(
            f"backbone.max_length: {max_length} is more than this model can take "
            f"(allowed: {least} to {most}, or null, which is {usual} here)"
        )
    if max_length is not None and max_length < least:
        raise InputError(
            f"backbone.max_length: {max_length} leaves no room for a word (allowed: {least} to "
            f"{most or 'any'}, or null)"
        )
    pools_first = _sentence_transformers(location, "1_Pooling/config.json").get(
        "pooling_mode_cls_token"
    )
    return TextEncoder(tokenizer, max_length or usual, "first" if pools_first else "mean")


def _most_tokens(tokenizer: Any, config: Any) -> int | None:
    """How many tokens a model has positions for; None where nothing says so."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and config.model_type in _POSITIONS_AFTER_PADDING:
        positions -= (config.pad_token_id or 0) + 1
    known: Iterable[int | None] = (tokenizer.model_max_length, positions)
    # A tokenizer that knows no limit says 10^30.
    limits = [limit for limit in known if limit is not None and 0 < limit < 10**9]
    return min(limits, default=None)


def _loaded(what: str, factory: Any, location: str, **arguments: Any) -> Any:
    try:
        return factory.from_pretrained(location, trust_remote_code=False, **arguments)
    except Exception as error:  # A damaged file raises whatever its parser stumbles over.
        reason = shorten(str(error), 300, placeholder=" ...") or type(error).__name__
        raise InputError(
            f"backbone.name: {location!r} has no {what} that loads: {reason}"
        ) from error


def _sentence_transformers(location: str, file: str) -> dict[str, Any]:
    """What sentence-transformers wrote beside a model on disk; empty where it is another model."""
    path = Path(location) / file
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"backbone.name: {str(path)!r} is no JSON ({error})") from error
    return content if isinstance(content, dict) else {}
