"""The weights of a backbone: the class of transformers that holds them, the part of a model that is
used, and whether a folder has all of them."""

import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from lamina.backbones.read_architecture import is_read
from lamina.registry import InputError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

TOWERS = ("vision", "text")
HALVES = ("encoder", "both")
"""The halves of a model with a decoder that can be used; the default is first."""
READABLE = {"input_ids": "texts", "pixel_values": "images"}
"""Main inputs of the models that can be loaded, by transformers' name."""
NAMED = 3
"""How many tensors an error names."""
BUILDING = threading.RLock()
"""Held while a model is built. transformers changes its own classes for that long, and where two
threads do so at once they stay changed: no model of the process has its tied weights from then
on."""


def reads_images(config: Any) -> bool:
    """Whether a model of this configuration reads images; else it reads texts."""
    # BEiT has a vocabulary, too.
    return hasattr(config, "num_channels") or getattr(config, "vocab_size", None) is None


def tower_config(config: "PretrainedConfig", tower: str | None) -> "PretrainedConfig":
    """The configuration of the part of a model that is used: of a tower where it has two.

    Raises InputError for a tower where it has none, and for other models of texts and images.
    """
    towers = {each: getattr(config, f"{each}_config", None) for each in TOWERS}
    if all(towers.values()):
        if tower in HALVES:
            raise InputError(
                f"backbone.tower: a {config.model_type!r} model has no decoder (allowed: "
                f"{', '.join(TOWERS)})"
            )
        chosen: Any = towers[tower or TOWERS[0]]
        return chosen
    if tower is not None and not config.is_encoder_decoder:
        raise InputError(
            f"backbone.tower: a {config.model_type!r} model is one part (leave the key out)"
        )
    if tower in TOWERS:
        raise InputError(
            f"backbone.tower: a {config.model_type!r} model has no part {tower!r} (allowed: "
            f"{', '.join(HALVES)})"
        )
    return config


def empty_model(config: "PretrainedConfig", tower: str | None) -> "PreTrainedModel":
    """The used half or tower of a model, without numbers."""
    from accelerate import init_empty_weights

    with BUILDING, init_empty_weights(), _one_line(config.name_or_path or config.model_type):
        model = _class_of(config)._from_config(config)
        return _used(model, tower)[1]


def load_model(
    location: str, config: "PretrainedConfig", tower: str | None, **arguments: Any
) -> "PreTrainedModel":
    """The used half or tower of a model, with its weights.

    Raises InputError where they do not load, and with their names where some are missing.
    """
    # Shapes that differ are told with the tensors that are missing.
    arguments |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    with BUILDING, _one_line(location), _quietly():
        model, about = _class_of(config).from_pretrained(location, config=config, **arguments)
        prefix, used = _used(model, tower)
    lacking = _lacking(about, prefix, used.config.model_type)
    if lacking:
        more = f" and {len(lacking) - NAMED} more" if len(lacking) > NAMED else ""
        raise InputError(
            f"backbone.name: {location!r} lacks {len(lacking)} tensors of a "
            f"{config.model_type!r} model, which would be random: "
            f"{', '.join(lacking[:NAMED])}{more}"
        )
    return used


def check_weights(location: str, config: "PretrainedConfig", tower: str | None) -> None:
    """Raise InputError as `load_model` does; reads names and shapes, and no numbers."""
    load_model(location, config, tower, device_map="meta")


def _class_of(config: "PretrainedConfig") -> Any:
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    if type(config) in MODEL_MAPPING:
        mapped = MODEL_MAPPING[type(config)]
        return mapped[0] if isinstance(mapped, tuple) else mapped
    # SigLIP's text tower is in no table of transformers, but says what it is.
    for name in config.architectures or ():
        found = getattr(transformers, name, None)
        if found is not None and found.config_class is type(config):
            return found
    raise InputError(
        f"backbone.name: transformers has no model for a {config.model_type!r} configuration"
    )


def _used(model: Any, tower: str | None) -> tuple[str, Any]:
    """The module of a model that is used, and the prefix of its parameters' names. It is a tower of
    two; the encoder where there is a decoder too, unless both are wanted; or the whole model."""
    config = model.config
    if tower_config(config, tower) is not config:
        name = f"{tower or TOWERS[0]}_model"
        used = getattr(model, name, None)
        if used is None or not hasattr(used, "get_input_embeddings"):
            raise InputError(
                f"backbone.name: a {config.model_type!r} model reads texts and images at once "
                "(allowed: models of texts or of images, CLIP and SigLIP)"
            )
        return f"{name}.", used
    if model.main_input_name not in READABLE:
        raise InputError(
            f"backbone.name: a {config.model_type!r} model reads {model.main_input_name!r} "
            f"(allowed: models of {' or '.join(READABLE.values())})"
        )
    if tower == HALVES[1]:
        return "", model
    # T5 says that it has no decoder where its encoder was saved by itself, and gets one here.
    if config.is_encoder_decoder or (hasattr(model, "encoder") and hasattr(model, "decoder")):
        encoder = model.get_encoder()
        name = next(name for name, module in model.named_modules() if module is encoder)
        return f"{name}.", encoder
    return "", model


def _lacking(about: Mapping[str, Any], prefix: str, model_type: str) -> list[str]:
    """Names of tensors that are used, and are missing or of another shape; in order."""
    named = [each if isinstance(each, str) else each[0] for each in about["mismatched_keys"]]
    found = {
        name.removeprefix(prefix)
        for name in (*about["missing_keys"], *named)
        if name.startswith(prefix)
    }
    return sorted(name for name in found if is_read(name, model_type))


@contextmanager
def _one_line(location: str) -> Iterator[None]:
    """Turns what transformers, torch and safetensors raise about files into an InputError of one
    line."""
    try:
        yield
    except InputError:
        raise
    except SafetensorError as error:
        raise InputError(
            f"backbone.name: {location!r} has a file of weights that is damaged or cut off: {error}"
        ) from error
    except UnpicklingError as error:
        raise InputError(
            f"backbone.name: {location!r} has a pickle that holds more than tensors, or is damaged "
            "(allowed: safetensors, or a pytorch_model.bin of plain tensors)"
        ) from error
    except (
        *(OSError, ValueError, RuntimeError, ImportError, KeyError, EOFError),
        *(TypeError, AttributeError, IndexError, ArithmeticError),
    ) as error:
        said = str(error).strip().splitlines()
        first = said[0] if said and not isinstance(error, KeyError) else repr(error)
        raise InputError(f"backbone.name: {location!r} does not load: {first}") from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' progress bars and its report of what a file has and lacks, of which the
    part that matters is raised."""
    from transformers.utils import logging

    before, shows_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # torch warns of a pickle that it then refuses.
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            yield
    finally:
        logging.set_verbosity(before)
        if shows_bars:
            logging.enable_progress_bar()
