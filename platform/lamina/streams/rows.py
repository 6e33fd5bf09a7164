"""The rows of a stream as columns, which is all that a partition may read, and the stream's
fingerprint."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamina.core import PARTS, D, Stream
from lamina.registry import InputError, unknown
from lamina.streams.base import Table

GROUP = "group"
"""The value of `by` for the natural groups (topics, domains) of a source."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The N rows of a stream, sorted by id: no order of reading changes what is made of them."""

    fingerprint: str
    """`fingerprint_of` the stream."""
    task_names: tuple[str, ...]
    """What people call its tasks."""
    ids: NDArray[np.int64]
    """[N], ascending."""
    tasks: NDArray[np.int64]
    """[N], numbers of tasks."""
    parts: NDArray[np.int64]
    """[N], indices in `lamina.core.PARTS`."""
    labels: NDArray[np.int64]
    """[N], class numbers; all zero where labels are token sequences."""
    owners: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)
    """By name, what each row belongs to (a language, a room, a user), [N]; `group` is the natural
    group of the source."""

    def __len__(self) -> int:
        return len(self.ids)

    def owner(self, by: str) -> NDArray[np.str_]:
        """The column `by`. Raises InputError where the source has no such column."""
        if by not in self.owners:
            if not self.owners:
                raise InputError(
                    f"federation.partition.by: {by!r} is unknown; this source does not say what "
                    "its rows belong to (huggingface and instructions take it from "
                    "stream.client_column)"
                )
            raise unknown("federation.partition.by", by, list(self.owners))
        return self.owners[by]


def rows_of(stream: Stream[D], table: Table | None = None) -> Rows:
    """The rows of `stream`; `table` is what it was made of, and knows what each belongs to."""
    ids, tasks, parts, labels = _columns(stream)
    known: dict[str, Any] = {}
    if table is not None:
        known = {**table.owners, **({GROUP: table.groups} if table.groups is not None else {})}
    return Rows(
        fingerprint=fingerprint_of(stream),
        task_names=tuple(each.task.name for each in stream.experiences),
        ids=ids,
        tasks=tasks,
        parts=parts,
        labels=labels,
        owners={name: np.asarray(values)[ids] for name, values in known.items()},
    )


def fingerprint_of(stream: Stream[D]) -> str:
    """A sha256 of the digest in the stream's record (which knows every value) and of the task and
    the part of every row: the same for a stream as read and as encoded."""
    ids, tasks, parts, _ = _columns(stream)
    digest = sha256(str(stream.record.get("digest", "")).encode())
    for column in (ids, tasks, parts):
        digest.update(column.astype("<i8").tobytes())
    return digest.hexdigest()


def random_ranks(cell: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    """The index of each row among those of its cell in a random order, from 0, [N]."""
    order = np.lexsort((random.random(len(cell)), cell))
    sizes = np.bincount(cell)
    ranks = np.empty_like(cell)
    ranks[order] = np.arange(len(cell)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return ranks


def _columns(stream: Stream[D]) -> tuple[NDArray[np.int64], ...]:
    """Ids, tasks, parts and labels, each [N], sorted by id."""
    columns: list[list[NDArray[np.int64]]] = [[], [], [], []]
    for index, each in enumerate(stream.experiences):
        for part, name in enumerate(PARTS):
            data = each.part(name)
            labels = data.labels if data.labels.dim() == 1 else data.labels.new_zeros(len(data))
            found = (data.ids.numpy(), labels.cpu().numpy())
            columns[0].append(found[0])
            columns[1].append(np.full(len(data), index, dtype=np.int64))
            columns[2].append(np.full(len(data), part, dtype=np.int64))
            columns[3].append(found[1])
    joined = [np.concatenate(column) for column in columns]
    order = np.argsort(joined[0], kind="stable")
    assert len(np.unique(joined[0])) == len(order), "an id occurs twice in the stream"
    return tuple(column[order] for column in joined)
