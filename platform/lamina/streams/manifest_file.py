"""A stream manifest as a file: JSON for people, Parquet for large federations. Their content, and
so their hash, is the same."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lamina.core import D, Stream
from lamina.registry import InputError, unknown
from lamina.streams.manifest import (
    NEVER,
    Client,
    Drift,
    RowSet,
    StreamManifest,
    entries_of,
)
from lamina.streams.rows import Rows, fingerprint_of, rows_of

VERSION = 1
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
    part: Literal["train", "validation", "test"]
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
        path.write_text(f'{head}, "entries": [\n{lines}\n]}}\n', encoding="utf-8")
        return
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.Table.from_pylist(entries, schema=_schema(pyarrow))
    parquet.write_table(table.replace_schema_metadata({_HEADER: json.dumps(header)}), path)


def read_manifest(path: Path, stream: Stream[D]) -> StreamManifest:
    """The manifest in a file, checked against the stream whose rows it deals out.

    Rows of the stream that it does not mention are nobody's. A file written by people may leave out
    `hash`. Raises InputError, naming the key, for what is not there or not allowed, for a manifest
    that was changed after it was hashed, and for one of other rows.
    """
    try:
        plain = _plain(path)
        read = _Manifest.model_validate(plain)
    except OSError as error:
        raise InputError(f"manifest: {str(path)!r} cannot be read ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(("manifest", *map(str, first["loc"])))
        raise InputError(f"{key}: {first['msg']} (in {str(path)!r})") from None
    numbers = _numbers(read.clients)
    sets = [
        RowSet(
            client=_number(numbers, entry.client, f"manifest.entries.{place}.client"),
            part=entry.part,
            task=entry.task,
            ids=np.array(entry.rows, dtype=np.int64),
            time=NEVER if entry.time is None else entry.time,
            drift=entry.drift,
        )
        for place, entry in enumerate(read.entries)
    ]
    _check_entries(sets, read)
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
    _check_rows(manifest, rows)
