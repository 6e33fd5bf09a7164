"""Bytes kept under their own digest: what the store holds of replay memories, adapters and other
parts of a checkpoint."""

import os
from collections.abc import Collection
from hashlib import sha256
from pathlib import Path


class Payloads:
    """A folder of files that are named by the SHA-256 of their content.

    The part of a checkpoint that a task did not change, and the checkpoint that a trial forks from
    another, cost nothing. A file is written aside and moved into place, so one that has its name
    has all its bytes.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        for torn in folder.glob("*.part"):
            torn.unlink()

    def put(self, content: bytes) -> str:
        """Keep `content`; returns its digest."""
        digest = sha256(content).hexdigest()
        path = self._path(digest)
        if not path.exists():
            part = path.with_suffix(".part")
            part.write_bytes(content)
            os.replace(part, path)
        return digest

    def get(self, digest: str) -> bytes:
        """The content that `digest` names."""
        return self._path(digest).read_bytes()

    def keep_only(self, digests: Collection[str]) -> None:
        """Delete every file that `digests` does not name."""
        for path in self._folder.glob("*.safetensors"):
            if path.stem not in digests:
                path.unlink()

    def delete(self, digests: Collection[str]) -> None:
        """Delete the files that `digests` names."""
        for digest in digests:
            self._path(digest).unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        return self._folder / f"{digest}.safetensors"
