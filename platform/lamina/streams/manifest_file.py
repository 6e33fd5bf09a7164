"""A stream manifest as a file: JSON for people, Parquet for large federations. Their content, and
so their hash, is the same."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lamina.core import PARTS, D, Part, Stream
from lamina.files import replacing, write_file
from lamina.registry import InputError, unknown
from lamina.streams.manifest import (
    NEVER,
    Client,
    Drift,
    RowSet,
    StreamManifest,
    entries_of,
)
from lamina.streams.rows import fingerprint_of, rows_of

VERSION = 1
_FORMATS = ("json", "parquet")
_HEADER = b"lamina_stream_manifest"
"""The key of a Parquet file's metadata that has all but the entries, as JSON."""

_Time = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_STRICT = ConfigDict(strict=True, extra="forbid")


class _Client(BaseModel):
    model_config = _STRICT
    name: Annotated[str, Field(min_length=1)]
    joined: _Time = 0.0
    left: _Time | None = None


class _Entry(BaseModel):
    model_config = _STRICT
    client: str
    part: Part
    task: Annotated[int, Field(ge=0)]
    time: _Time | None = None
    drift: Drift = "none"
    rows: Annotated[list[Annotated[int, Field(ge=0, lt=2**63)]], Field(min_length=1)]


class _Manifest(BaseModel):
    model_config = _STRICT
    version: Literal[1]
    hash: str | None = None
    fingerprint: str
    tasks: list[str]
    clients: Annotated[list[_Client], Field(min_length=1)]
    record: dict[str, Any] = {}
    entries: list[_Entry]


def write_manifest(manifest: StreamManifest, path: Path) -> None:
    """Write a manifest as JSON or Parquet, by the ending of `path`.

    Raises InputError for another ending.
    """
    header = {
        "version": VERSION,
        "hash": manifest.hash,
        "fingerprint": manifest.fingerprint,
        "tasks": list(manifest.tasks),
        "clients": [asdict(client) for client in manifest.clients],
        "record": dict(manifest.record),
    }
    entries = [
        {
            "client": manifest.clients[each.client].name,
            "part": each.part,
            "task": each.task,
            "time": None if np.isnan(each.time) else each.time,
            "drift": each.drift,
            "rows": each.ids.tolist(),
        }
        for each in manifest.entries
    ]
    if _format(path) == "json":
        # A line for each entry: readable, and a change of one shows as one.
        lines = ",\n".join(json.dumps(entry) for entry in entries)
        head = json.dumps(header)[:-1]
        write_file(path, f'{head}, "entries": [\n{lines}\n]}}\n')
        return
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.Table.from_pylist(entries, schema=_schema(pyarrow))
    with replacing(path) as unfinished:
        parquet.write_table(
            table.replace_schema_metadata({_HEADER: json.dumps(header)}), unfinished
        )


def read_manifest(path: Path, stream: Stream[D]) -> StreamManifest:
    """The manifest in a file, checked against the stream whose rows it deals out.

    Rows of the stream that it does not mention are nobody's. A file written by people may leave out
    `hash`. Raises InputError, naming the key, for what is not there or not allowed, for a manifest
    that was changed after it was hashed, and for one of other rows.
    """
    read = _read(path)
    numbers = _numbers(read.clients)
    sets = [
        _row_set(index, entry, numbers, len(read.tasks)) for index, entry in enumerate(read.entries)
    ]
    manifest = StreamManifest(
        fingerprint=read.fingerprint,
        tasks=tuple(read.tasks),
        clients=tuple(Client(each.name, each.joined, each.left) for each in read.clients),
        entries=entries_of(sets),
        record=read.record,
    )
    if read.hash not in (None, manifest.hash):
        raise InputError(
            f"manifest.hash: {read.hash[:12]}... is not that of the content, which was changed "
            f"after it was written (allowed: {manifest.hash}, or null)"
        )
    _check_dealt_once(manifest)
    check_fits(manifest, stream)
    return manifest


def check_fits(manifest: StreamManifest, stream: Stream[D]) -> None:
    """Raises InputError unless the manifest deals out rows of this stream, each as the stream has
    it."""
    found = fingerprint_of(stream)
    if manifest.fingerprint != found:
        raise InputError(
            f"manifest.fingerprint: {manifest.fingerprint[:12]}... is of other rows than this "
            f"stream's (allowed: {found}); the source, the scenario or the seed differs"
        )
    rows = rows_of(stream)
    if manifest.tasks != rows.task_names:
        raise InputError(
            f"manifest.tasks: {', '.join(manifest.tasks)} are not this stream's "
            f"(allowed: {', '.join(rows.task_names)})"
        )
    entries = manifest.entries
    owner = np.repeat(np.arange(len(entries)), np.diff(entries.start))

    def refuse(wrong: NDArray[np.bool_], why: str) -> None:
        if wrong.any():
            entry = owner[index := int(wrong.argmax())]
            raise InputError(
                f"manifest.entries: row {entries.ids[index]} (client "
                f"{manifest.clients[entries.client[entry]].name!r}, {PARTS[entries.part[entry]]}) "
                f"{why}"
            )

    known = np.isin(entries.ids, rows.ids)
    refuse(~known, "is not in the stream")
    where = np.searchsorted(rows.ids, entries.ids)
    part = entries.part[owner]
    refuse(rows.parts[where] != part, "is in another part of the stream")
    evaluated = part != PARTS.index("train")
    refuse(evaluated & (rows.tasks[where] != entries.task[owner]), "is of another task")


def _read(path: Path) -> _Manifest:
    """A file whose every key is there and of the right type."""
    try:
        return _Manifest.model_validate(_plain(path))
    except OSError as error:
        raise InputError(f"manifest: {str(path)!r} cannot be read ({error.strerror})") from None
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        key = ".".join(("manifest", *map(str, wrong["loc"])))
        raise InputError(f"{key}: {wrong['msg']} (in {str(path)!r})") from None


def _plain(path: Path) -> Any:
    """The content of a file as plain JSON values."""
    if _format(path) == "json":
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"manifest: {str(path)!r} is not JSON ({error})") from None
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
        header = json.loads((table.schema.metadata or {})[_HEADER])
    except (pyarrow.ArrowInvalid, KeyError, ValueError):
        raise InputError(f"manifest: {str(path)!r} is not a stream manifest in Parquet") from None
    return {**header, "entries": table.to_pylist()}


def _format(path: Path) -> str:
    ending = path.suffix.removeprefix(".")
    if ending not in _FORMATS:
        raise InputError(
            f"manifest: {str(path)!r} is of no kind that is read and written "
            f"(allowed: {', '.join(f'.{each}' for each in _FORMATS)})"
        )
    return ending


def _schema(pyarrow: ModuleType) -> Any:
    return pyarrow.schema(
        {
            "client": pyarrow.string(),
            "part": pyarrow.string(),
            "task": pyarrow.int64(),
            "time": pyarrow.float64(),
            "drift": pyarrow.string(),
            "rows": pyarrow.list_(pyarrow.int64()),
        }
    )


def _numbers(clients: Sequence[_Client]) -> dict[str, int]:
    """The number of each client by its name."""
    numbers: dict[str, int] = {}
    for index, client in enumerate(clients):
        key = f"manifest.clients.{index}"
        if numbers.setdefault(client.name, index) != index:
            raise InputError(f"{key}.name: {client.name!r} is given twice (allowed: once)")
        if client.left is not None and client.left <= client.joined:
            raise InputError(
                f"{key}.left: {client.left} is not after it joined "
                f"(allowed: above {client.joined}, or null)"
            )
    return numbers


def _row_set(index: int, entry: _Entry, numbers: Mapping[str, int], num_tasks: int) -> RowSet:
    """One entry, checked against what else the file says."""
    key = f"manifest.entries.{index}"
    if entry.client not in numbers:
        raise unknown(f"{key}.client", entry.client, numbers)
    if entry.task >= num_tasks:
        raise InputError(f"{key}.task: {entry.task} is no task (allowed: 0 to {num_tasks - 1})")
    if entry.part != "train" and entry.time is not None:
        raise InputError(
            f"{key}.time: {entry.time} of rows that are evaluated and never arrive (allowed: null)"
        )
    if entry.time is None and entry.drift != "none":
        raise InputError(
            f"{key}.drift: {entry.drift!r} of rows that never arrive (allowed: 'none')"
        )
    return RowSet(
        client=numbers[entry.client],
        part=entry.part,
        task=entry.task,
        ids=np.array(entry.rows, dtype=np.int64),
        time=NEVER if entry.time is None else entry.time,
        drift=entry.drift,
    )


def _check_dealt_once(manifest: StreamManifest) -> None:
    """Raises InputError where a row is given twice, or comes to a client that is not there."""
    entries = manifest.entries
    ids, counts = np.unique(entries.ids, return_counts=True)
    if (counts > 1).any():
        raise InputError(
            f"manifest.entries: row {ids[counts > 1][0]} is given {counts.max()} times "
            "(allowed: once)"
        )
    for each in entries:
        client = manifest.clients[each.client]
        if each.time == each.time and not client.present(each.time):
            raise InputError(
                f"manifest.entries: rows of task {each.task} come to client {client.name!r} at "
                f"{each.time}, when it is not there (allowed: from {client.joined} to "
                f"{'the end' if client.left is None else client.left})"
            )
