"""Loads a backbone: on its device, spread over several by accelerate, or as an outline without
numbers."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from lamina.backbones.backbone import Backbone
from lamina.backbones.encoding import Encoder, TextEncoder, load_encoder
from lamina.backbones.locate import config_of, locate
from lamina.backbones.pixels import ImageEncoder
from lamina.backbones.positions import num_first, num_positions
from lamina.backbones.quantised import (
    check_modules,
    check_quantisation,
    quantisation_config,
    settle,
)
from lamina.backbones.settings import BackboneSettings
from lamina.backbones.weights import check_weights, empty_model, load_model, tower_config
from lamina.registry import InputError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_TRIED = ((64, 48), (48, 64))
"""Heights and widths of the images with which a processor and its model are tried."""


def load_backbone(
    settings: BackboneSettings,
    device: torch.device | str = "cpu",
    resident: Backbone | None = None,
) -> Backbone:
    """Load the frozen model, with accelerate where it is larger than the device.

    `resident` is a backbone of the same weights, tower and type, maybe with another pooling or
    length of texts: its model is shared, and nothing is loaded.

    Raises InputError when its files are not there, transformers cannot build it, or some of its
    weights are missing.
    """
    from transformers.utils.logging import disable_progress_bar

    location = locate(settings.name)
    config = config_of(location)
    encoder = load_encoder(location, settings.max_length, tower_config(config, settings.tower))
    if resident is not None:
        return _backbone(resident.model, encoder, settings)
    check_quantisation(settings.quantize, torch.device(device))
    arguments = _placement(config, settings, torch.device(device))
    dtype = getattr(torch, settings.dtype)
    if settings.quantize is not None:
        arguments["quantization_config"] = quantisation_config(settings.quantize, dtype)
    disable_progress_bar()
    model = load_model(location, config, settings.tower, dtype=dtype, **arguments)
    if settings.quantize is not None:
        settle(model, settings.quantize)
    return _backbone(model, encoder, settings)


def outline_backbone(settings: BackboneSettings) -> Backbone:
    """The backbone with its modules and without their numbers: enough to see whether things fit.

    Raises InputError as `load_backbone` does; of what is not on this disk, weights are not read.
    """
    location = locate(settings.name)
    config = config_of(location)
    encoder = load_encoder(location, settings.max_length, tower_config(config, settings.tower))
    check_quantisation(settings.quantize, torch.device("meta"))
    model = empty_model(config, settings.tower)
    if Path(location).is_dir():
        check_weights(location, config, settings.tower)
    if isinstance(encoder, ImageEncoder):
        _check_images(model, encoder, settings.name)
    return _backbone(model, encoder, settings)


def _check_images(model: "PreTrainedModel", encoder: ImageEncoder, name: str) -> None:
    """Raises InputError where a model does not take what its image processor makes, tried on an
    outline."""
    made: list[list[int]] = []
    try:
        for height, width in _TRIED:
            blank = torch.zeros(height, width, 3, dtype=torch.uint8)
            pixels = cast(torch.Tensor, encoder([blank])["pixel_values"])
            made.append(list(pixels.shape[1:]))
            with torch.no_grad():
                model(pixel_values=pixels.to("meta"))
    except Exception as error:  # Every processor and model says so in its own way.
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        what = f" makes {made[-1]} of an image, and its model" if made else ""
        raise InputError(
            f"backbone.name: the image processor of {name!r}{what} fails: {first} "
            "(preprocessor_config.json)"
        ) from error
    if made[0] != made[1]:
        raise InputError(
            f"backbone.name: the image processor of {name!r} makes {made[0]} of an upright image "
            f"and {made[1]} of a wide one (allowed: one size; let preprocessor_config.json resize "
            "to a height and a width, or crop)"
        )


def _backbone(model: "PreTrainedModel", encoder: Encoder, settings: BackboneSettings) -> Backbone:
    """Raises InputError where model, tokenizer and settings do not go together."""
    check_modules(model, settings.quantize)
    known = num_positions(model)
    if isinstance(encoder, TextEncoder):
        if known is not None:
            encoder = replace(encoder, max_length=min(encoder.max_length, known))
        embeddings: Any = model.get_input_embeddings()
        embedded = embeddings.weight.shape[0]
        if len(encoder.tokenizer) > embedded:
            raise InputError(
                f"backbone.name: the tokenizer of {settings.name!r} has {len(encoder.tokenizer)} "
                f"tokens, and its model embeds {embedded}"
            )
    has_first = encoder.modality == "text" or num_first(model) > 0
    default = encoder.pooling if has_first else "mean"
    backbone = Backbone(model, encoder, settings, settings.pooling or default)
    if backbone.pooling == "first" and (not has_first or backbone.architecture.is_causal):
        why = "sees no other token" if has_first else "is a part of the image like any other"
        raise InputError(
            f"backbone.pooling: the first token of a {backbone.architecture.model_type!r} model "
            f"{why} (allowed: mean)"
        )
    return backbone


def _placement(
    config: "PretrainedConfig", settings: BackboneSettings, device: torch.device
) -> dict[str, Any]:
    """Arguments of `from_pretrained`: everything on the device, or spread by accelerate."""
    limit = None if settings.quantize else _memory_limit(settings, device)
    if limit is None or _size_in_bytes(config, settings) <= limit:
        return {"device_map": {"": device}}
    first: int | str = (device.index or 0) if device.type == "cuda" else "cpu"
    return {
        "device_map": "auto",
        "max_memory": {first: limit} if first == "cpu" else {first: limit, "cpu": _host_memory()},
        "offload_folder": tempfile.mkdtemp(prefix="lamina-offload-"),
    }


def _memory_limit(settings: BackboneSettings, device: torch.device) -> int | None:
    if settings.max_memory_gb is not None:
        return int(settings.max_memory_gb * 2**30)
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def _host_memory() -> int:
    from psutil import virtual_memory

    return int(virtual_memory().available * 0.9)


def _size_in_bytes(config: "PretrainedConfig", settings: BackboneSettings) -> int:
    model = empty_model(config, settings.tower)
    return model.num_parameters() * int(getattr(torch, settings.dtype).itemsize)
