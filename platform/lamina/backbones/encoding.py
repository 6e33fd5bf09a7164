"""From texts and images to the tensors a model takes: the tokenizer or image processor that came
with its weights."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from lamina.backbones.locate import config_of
from lamina.backbones.padding import with_padding
from lamina.backbones.weights import reads_images
from lamina.core import Modality
from lamina.registry import InputError

LONGEST_TEXT = 512
"""Tokens of a text, where the model says nothing of how long its texts were."""


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

    def __call__(self, values: Sequence[Any]) -> Mapping[str, Tensor]:
        """Inputs of N values, each [N, ...]."""
        ...


@dataclass(frozen=True)
class TextEncoder:
    """A tokenizer with its longest text."""

    tokenizer: Any
    max_length: int
    pooling: Literal["mean", "first"]
    modality: Modality = "text"

    def __call__(self, values: Sequence[str]) -> Mapping[str, Tensor]:
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

    @property
    def padding(self) -> Literal["longest", "max_length"]:
        """To the longest text of a call; always to one length where the model was trained without
        a mask, and so on texts of one length (SigLIP)."""
        masks = "attention_mask" in self.tokenizer.model_input_names
        return "longest" if masks else "max_length"


@dataclass(frozen=True)
class ImageEncoder:
    """An image processor: resizes, rescales, normalises."""

    processor: Any
    pooling: Literal["mean", "first"] = "first"
    modality: Modality = "image"

    def __call__(self, values: Sequence[Tensor]) -> Mapping[str, Tensor]:
        images = [value.numpy() for value in values]
        encoded = self.processor(
            images=images, input_data_format="channels_last", return_tensors="pt"
        )
        return {"pixel_values": encoded["pixel_values"]}


def load_encoder(location: str, max_length: int | None, config: Any = None) -> Encoder:
    """The encoder that belongs to the model at `location`, or to the part of it that has this
    configuration. Raises InputError when it has none."""
    config = config or config_of(location)
    if reads_images(config):
        # Importing it takes longer than all else that a text backbone needs of transformers.
        from transformers import AutoImageProcessor

        return ImageEncoder(_loaded("image processor", AutoImageProcessor, location, backend="pil"))
    from transformers import AutoTokenizer

    tokenizer = with_padding(_loaded("tokenizer", AutoTokenizer, location))
    trained = _sentence_transformers(location, "sentence_bert_config.json").get("max_seq_length")
    known = [tokenizer.model_max_length, getattr(config, "max_position_embeddings", LONGEST_TEXT)]
    longest = min([*known, trained or LONGEST_TEXT])
    pools_first = _sentence_transformers(location, "1_Pooling/config.json").get(
        "pooling_mode_cls_token"
    )
    return TextEncoder(
        tokenizer, min(max_length or longest, longest), "first" if pools_first else "mean"
    )


def _loaded(what: str, factory: Any, location: str, **arguments: Any) -> Any:
    try:
        return factory.from_pretrained(location, **arguments)
    except (OSError, ValueError) as error:
        raise InputError(f"backbone.name: {location!r} has no {what}: {error}") from error


def _sentence_transformers(location: str, file: str) -> dict[str, Any]:
    """What sentence-transformers wrote beside a model on disk; empty where it is another model."""
    path = Path(location) / file
    if not path.is_file():
        return {}
    content: dict[str, Any] = json.loads(path.read_text())
    return content
