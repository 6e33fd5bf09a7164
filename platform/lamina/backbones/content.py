"""A digest of a backbone's files: other weights have another digest, wherever they are."""

from functools import lru_cache
from hashlib import file_digest, sha256
from pathlib import Path

from lamina.backbones.locate import config_of, locate
from lamina.digests import digest_of

_NOT_READ = (".md", ".py", ".pyc", ".h5", ".msgpack", ".onnx", ".ot", ".tflite", ".png", ".jpg")
"""Endings of files that loading a model never reads: prose, code, and weights for others."""
_POOLING = "1_Pooling/config.json"
"""Where sentence-transformers says how tokens become one feature."""


def backbone_digest(name: str) -> str:
    """Ten hexadecimal digits that depend on what `load_backbone` reads: every file of a folder or
    package, or the commit of a repository of the hub.

    The files are read once in a process, and again when one has changed. Raises InputError when the
    backbone is not there.
    """
    location = locate(name)
    folder = Path(location)
    if not folder.is_dir():
        return digest_of(["hub", _commit(location)])
    return _digest(folder, tuple(map(_stamp, files_of(folder))))


def _commit(repository: str) -> str:
    """The commit of a repository of the hub whose files are in the hub's cache, which has a folder
    for each."""
    from huggingface_hub import try_to_load_from_cache
    from transformers.utils import CONFIG_NAME

    config_of(repository)
    found = try_to_load_from_cache(repository, CONFIG_NAME)
    return Path(found).parent.name if isinstance(found, str) else repository


def files_of(folder: Path) -> list[Path]:
    """The files of a folder that are read, in a fixed order."""
    files = [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith(".") and path.suffix not in _NOT_READ
    ]
    if any(path.suffix == ".safetensors" for path in files):
        # transformers then reads no pickled weights.
        files = [path for path in files if path.suffix != ".bin"]
    pooling = folder / _POOLING
    return [*files, pooling] if pooling.is_file() else files


def _stamp(path: Path) -> tuple[Path, int, int, int, int]:
    """A value that changes when a file does. Nobody can set the time of the last change of status
    back."""
    found = path.stat()
    return path, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@lru_cache(maxsize=64)
def _digest(folder: Path, stamps: tuple[tuple[Path, int, int, int, int], ...]) -> str:
    content = []
    for path, *_ in stamps:
        with path.open("rb") as file:
            digest = file_digest(file, sha256).hexdigest()
        content.append([path.relative_to(folder).as_posix(), digest])
    return digest_of(content)
