"""Copies of backbones' folders, for machines that do not have them."""

import os
import shutil
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

from lamina.backbones.content import files_of
from lamina.backbones.locate import cache_folder, stand_in


def is_folder(name: str) -> bool:
    """Whether a backbone is a folder of this machine, which other machines may not have. What a
    package ships, or the hub has, each machine finds by itself."""
    return Path(name).expanduser().is_dir()


def content_of(name: str) -> dict[str, bytes]:
    """The files of a backbone's folder that are read, by path below it."""
    folder = Path(name).expanduser()
    return {str(path.relative_to(folder)): path.read_bytes() for path in files_of(folder)}


def keep_copy(name: str, files: Mapping[str, Any]) -> Path:
    """From now on, in this process, `name` stands for a copy of the folder that these files come
    from. The copy is in the cache, once for all processes of a machine. It is complete or not
    there."""
    digest = sha256()
    for path, content in sorted(files.items()):
        digest.update(path.encode() + sha256(content).digest())
    folder = cache_folder() / "backbones" / digest.hexdigest()[:16]
    if not folder.is_dir():
        unfinished = folder.with_name(f"{folder.name}.{uuid4().hex}.part")
        for path, content in files.items():
            target = unfinished / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        try:
            os.rename(unfinished, folder)
        except OSError:
            # Another process was faster.
            shutil.rmtree(unfinished)
    stand_in(name, folder)
    return folder
