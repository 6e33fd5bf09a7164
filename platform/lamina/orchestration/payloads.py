"""Bytes kept under their own digest: what the store holds of replay memories, adapters and other
parts of a checkpoint."""

import os
from collections.abc import Collection, Sequence
from hashlib import sha256
from pathlib import Path

from lamina.files import UNFINISHED, sync
from lamina.registry import InputError


class Payloads:
    """A folder of files that are named by the SHA-256 of their content.

    The part of a checkpoint that a task did not change, and the checkpoint that a trial forks from
    another, cost nothing. A file is written aside, brought to the disk and moved into place. So one
    that has its name has all its bytes, also after a power cut, unless something else has damaged
    it; then `get` refuses it, and `put` writes it again.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        for torn in folder.glob(f"*{UNFINISHED}"):
            torn.unlink()

    def put(self, content: bytes) -> str:
        """Keep `content`; returns its digest."""
        return self.put_all([content])[0]

    def put_all(self, contents: Sequence[bytes]) -> list[str]:
        """Keep `contents`; returns their digests. They are on the disk when this returns."""
        digests = [sha256(content).hexdigest() for content in contents]
        given = {self._path(digest): each for digest, each in zip(digests, contents, strict=True)}
        new = {path: each for path, each in given.items() if not _holds(path, each)}
        # All are written before the first is waited for: the disk then has them at one go.
        for path, content in new.items():
            path.with_suffix(UNFINISHED).write_bytes(content)
        for path in new:
            sync(path.with_suffix(UNFINISHED))
            os.replace(path.with_suffix(UNFINISHED), path)
        # Also where all were there: whoever wrote them may have been killed before this.
        sync(self._folder)
        return digests

    def get(self, digest: str) -> bytes:
        """The content that `digest` names. Raises InputError when it is missing or damaged."""
        path = self._path(digest)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise _refused(path, "is missing") from None
        if sha256(content).hexdigest() != digest:
            raise _refused(path, "is damaged: its content is not what its name is the SHA-256 of")
        return content

    def keep_only(self, digests: Collection[str]) -> None:
        """Delete every file that `digests` does not name."""
        named = set(digests)
        for path in self._folder.glob("*.safetensors"):
            if path.stem not in named:
                path.unlink()

    def delete(self, digests: Collection[str]) -> None:
        """Delete the files that `digests` names."""
        for digest in digests:
            self._path(digest).unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        return self._folder / f"{digest}.safetensors"


def _holds(path: Path, content: bytes) -> bool:
    """Whether a file has this content."""
    try:
        return path.stat().st_size == len(content) and path.read_bytes() == content
    except FileNotFoundError:
        return False


def _refused(path: Path, why: str) -> InputError:
    return InputError(
        f"output_dir: {str(path)!r} {why} (allowed: the file as it was written; to train again "
        "what needs it, a new output_dir)"
    )
