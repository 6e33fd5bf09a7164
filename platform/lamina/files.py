"""Files that are there whole or not at all, also after a power cut; and one holder of a folder at a
time. The one place that knows how."""

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lamina.registry import InputError

UNFINISHED = ".part"
"""The ending of what is not whole yet. One that a killed process left is of no use."""
_DISK = {
    errno.ENOSPC: "no room is left on the disk",
    errno.EDQUOT: "no room is left in the quota",
    errno.EFBIG: "the file may not grow so large",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.EIO: "the disk does not read or write",
    errno.ESTALE: "the file system has gone away",
    errno.ENOTDIR: "a file is where a folder should be",
    errno.EISDIR: "a folder is where a file should be",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EMFILE: "this process has too many files open",
    errno.ENFILE: "this machine has too many files open",
}
"""What a disk, and who may use it, can be at fault for, by the number of the error."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file to. At the end of the block it is brought to the disk
    and moved to `path`; where the block fails, `path` is as it was and nothing is left behind."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}{UNFINISHED}")
    try:
        yield unfinished
        sync(unfinished)
        os.replace(unfinished, path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_file(path: Path, content: bytes | str) -> None:
    """Make `content` what is in a file; text is UTF-8."""
    with replacing(path) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Make `value` what is in a file, as JSON."""
    write_file(path, json.dumps(value, indent=indent) + "\n")


def read_json(path: Path, key: str) -> Any:
    """What is in a file of JSON. Raises InputError, which names `key` and the file, where it is
    none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{key}: {str(path)!r} is not JSON ({error})") from error


def checked_format(document: Any, known: int, path: Path, key: str) -> Mapping[str, Any]:
    """A document of a file that says its `format`; without one it is of the first. Raises
    InputError, which names `key` and the file, where that is not the one that is `known`."""
    if not isinstance(document, dict):
        raise InputError(f"{key}: {str(path)!r} holds no JSON object")
    if (found := document.get("format", 1)) != known:
        raise InputError(
            f"{key}: {str(path)!r} has the format {found!r} of another version of Lamina "
            f"(allowed: {known})"
        )
    return document


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """As `replacing`, of a folder with all that is in it; the one that was there is deleted."""
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}{UNFINISHED}")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        for path in [*unfinished.rglob("*"), unfinished]:
            sync(path)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(unfinished, folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    sync(folder.parent)


def sync(path: Path) -> None:
    """Bring the content of a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def held(lock: Path, key: str, what: str) -> Iterator[None]:
    """For the time of the block, this process alone holds `lock`, a file that stays. The hold ends
    with the process, also under kill -9.

    Raises InputError at once, naming `key` and `what` is held, where another process has it.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock_file = FileLock(lock)
    try:
        lock_file.acquire(blocking=False)
    except Timeout:
        raise InputError(
            f"{key}: {what} is in use by another command (allowed: one at a time)"
        ) from None
    except NotImplementedError:
        # A file system without locks: what is in the folder has to see to itself.
        yield
        return
    try:
        yield
    finally:
        lock_file.release()


def alone_in(output_dir: Path) -> AbstractContextManager[None]:
    """`held`, of the folder of a job that writes all over it."""
    return held(output_dir / ".lock", "output_dir", repr(str(output_dir)))


def disk_fault(error: OSError) -> str | None:
    """What an error says of a disk or of who may use it, with the file, in one line; None where it
    is of something else."""
    # Of an error of another process, Ray says what it was.
    cause = getattr(error, "cause", error)
    said = _DISK.get(getattr(cause, "errno", None) or 0)
    if said is None:
        return None
    where = f"{str(cause.filename)!r}: " if cause.filename is not None else ""
    return f"{where}{said} ({cause.strerror})"
