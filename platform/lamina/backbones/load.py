"""Loading a backbone: on its device, spread by accelerate where it is larger, or in outline."""

import tempfile
from typing import TYPE_CHECKING, Any

import torch

from lamina.backbones.backbone import Backbone, BackboneSettings
from lamina.backbones.encoding import load_encoder
from lamina.backbones.locate import config_of, locate
from lamina.registry import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_backbone(settings: BackboneSettings, device: torch.device | str = "cpu") -> Backbone:
    """Load the frozen model, with accelerate where it is larger than the device.

    Raises InputError when its files are not there or transformers cannot build it.
    """
    from transformers import AutoModel
    from transformers.utils.logging import disable_progress_bar

    location = locate(settings.name)
    encoder = load_encoder(location, settings.max_length)
    arguments = _placement(location, settings, torch.device(device))
    dtype = getattr(torch, settings.dtype)
    disable_progress_bar()
    try:
        model = AutoModel.from_pretrained(location, dtype=dtype, **arguments)
    except (OSError, ValueError) as error:
        raise InputError(f"backbone.name: {settings.name!r} does not load: {error}") from error
    return Backbone(model, encoder, settings, settings.pooling or encoder.pooling)


def outline_backbone(settings: BackboneSettings) -> Backbone:
    """The backbone with its modules and without their numbers: enough to see whether things fit.

    Raises InputError as `load_backbone` does.
    """
    location = locate(settings.name)
    encoder = load_encoder(location, settings.max_length)
    return Backbone(_empty_model(location), encoder, settings, settings.pooling or encoder.pooling)


def _placement(location: str, settings: BackboneSettings, device: torch.device) -> dict[str, Any]:
    """Arguments of `from_pretrained`: everything on the device, or spread by accelerate."""
    limit = _memory_limit(settings, device)
    if limit is None or _size_in_bytes(location, settings.dtype) <= limit:
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


def _size_in_bytes(location: str, dtype: str) -> int:
    return _empty_model(location).num_parameters() * int(getattr(torch, dtype).itemsize)


def _empty_model(location: str) -> "PreTrainedModel":
    from accelerate import init_empty_weights
    from transformers import AutoModel

    with init_empty_weights():
        return AutoModel.from_config(config_of(location))
