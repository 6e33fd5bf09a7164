"""From images to the pixels that a model takes, by the image processor that came with its
weights."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, Literal

import torch
from torch import Tensor

from lamina.core import LazyInput, LazyValues, Modality

PIXEL_BYTES = 512 * 2**20
"""Processed images up to this size stay in memory for the next epoch."""


@dataclass(frozen=True)
class ImageEncoder:
    """An image processor: resizes, rescales, normalises."""

    processor: Any
    pooling: Literal["mean", "first"] = "first"
    modality: Modality = "image"

    def __call__(self, values: Sequence[Tensor]) -> Mapping[str, Tensor | LazyInput]:
        """Pixels of images. Lazy values stay lazy: they are not decoded yet."""
        if isinstance(values, LazyValues):
            return {"pixel_values": LazyInput(values, self._maker)}
        return {"pixel_values": _processed(self.processor, values)}

    def num_cut(self, values: Sequence[Any]) -> int:
        """Always 0: a processor that crops is meant to crop."""
        return 0

    @cached_property
    def _maker(self) -> "PixelMaker":
        return PixelMaker(self.processor)


class PixelMaker:
    """Makes `pixel_values` of encoded images. The first ones stay in memory, up to PIXEL_BYTES."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._made: dict[bytes, Tensor] = {}
        self._num_bytes = 0

    @cached_property
    def digest(self) -> str:
        """A digest of the processor's settings and of the libraries that decode and resize."""
        import PIL
        import transformers

        settings = json.dumps(self._processor.to_dict(), sort_keys=True, default=str)
        libraries = f"{PIL.__version__}/{transformers.__version__}"
        kind = type(self._processor).__name__
        return sha256(f"{kind}/{settings}/{libraries}".encode()).hexdigest()[:32]

    def __call__(self, values: LazyValues) -> Tensor:
        """float32 [N, channels, height, width]."""
        keys = [values.digest(place) for place in range(len(values))]
        first = {key: place for place, key in enumerate(keys) if key not in self._made}
        made: dict[bytes, Tensor] = {}
        if first:
            images = [values[place] for place in first.values()]
            made = dict(zip(first, _processed(self._processor, images), strict=True))
        rows = [self._made[key] if key in self._made else made[key] for key in keys]
        for key, row in made.items():
            if self._num_bytes >= PIXEL_BYTES:
                break
            # A row of a batch would hold on to the whole batch.
            self._made[key] = row.clone()
            self._num_bytes += row.numel() * row.element_size()
        return torch.stack(rows) if rows else torch.empty(0, 3, 0, 0)

    def __getstate__(self) -> dict[str, Any]:
        return {"_processor": self._processor, "_made": {}, "_num_bytes": 0}


def _processed(processor: Any, values: Sequence[Tensor]) -> Tensor:
    """The output of an image processor for uint8 images [height, width, 3]."""
    encoded = processor(
        images=[value.numpy() for value in values],
        input_data_format="channels_last",
        return_tensors="pt",
    )
    pixels: Tensor = encoded["pixel_values"]
    return pixels
