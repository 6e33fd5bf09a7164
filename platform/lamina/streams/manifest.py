"""The stream manifest of a federation: which client gets which rows of which task, and when, as
columns.

Time is virtual and counted in stream steps: when all clients are in step, task k comes at time k.
How long a step is, in rounds or seconds, is up to the round engine.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lamina.core import PARTS, Part

Drift = Literal["start", "sudden", "gradual", "recurring", "none"]
DRIFTS: tuple[Drift, ...] = ("start", "sudden", "gradual", "recurring", "none")
"""How a delivery differs from the client's one before (River's words): its first delivery, another
task, another task with blurred borders, a task that it had before, the same task still."""

NEVER = float("nan")
"""The time of rows that do not arrive: those that are evaluated, and those that a client missed
because it joined too late or left too early."""


@dataclass(frozen=True)
class Client:
    """A site whose data stay there."""

    name: str
    """What a person calls it: `client 07`, or what its rows belong to (a language, a room)."""
    joined: float = 0.0
    """When it becomes available."""
    left: float | None = None
    """When it stops being available; None if it stays."""

    def present(self, time: float) -> bool:
        """Whether it is available at `time`."""
        return self.joined <= time and (self.left is None or time < self.left)


@dataclass(frozen=True, eq=False)
class Delivery:
    """New training rows at one client."""

    time: float
    """When they arrive, in stream steps."""
    client: int
    """Its index in `StreamManifest.clients`."""
    task: int
    """The number of the task in the whole stream; a few rows may be of other tasks, where borders
    are blurred."""
    rows: Tensor
    """int64 [n], the ids of the rows."""
    drift: Drift
    """How it differs from the client's delivery before."""


@dataclass(frozen=True, eq=False)
class RowSet:
    """Rows of one client that are there for one thing."""

    client: int
    """The index of its client."""
    part: Part
    """The part of the data that its rows belong to."""
    task: int
    """The number of its task in the whole stream."""
    ids: NDArray[np.int64]
    """[n], the ids of its rows."""
    time: float = NEVER
    """When they arrive."""
    drift: Drift = "none"
    """Where they arrive: how they differ from what came before."""


@dataclass(frozen=True, eq=False)
class Entries:
    """E sets of rows, sorted by client, then part, then time (what never arrives last), then task.

    A set of training rows is a delivery, or what never arrives. A set of validation or test rows is
    all that the client has of a task.
    """

    client: NDArray[np.int64]
    """[E], indices in `StreamManifest.clients`."""
    part: NDArray[np.int64]
    """[E], indices in `lamina.core.PARTS`."""
    task: NDArray[np.int64]
    """[E], numbers of tasks in the whole stream."""
    time: NDArray[np.float64]
    """[E], in stream steps; NEVER where nothing arrives."""
    drift: NDArray[np.int64]
    """[E], indices in DRIFTS; that of `none` where nothing arrives."""
    start: NDArray[np.int64]
    """[E + 1]: set e has the ids `ids[start[e]:start[e + 1]]`."""
    ids: NDArray[np.int64]
    """[M], ids of rows, ascending within a set."""

    def __len__(self) -> int:
        return len(self.client)

    def __iter__(self) -> Iterator[RowSet]:
        for entry in range(len(self)):
            yield RowSet(
                client=int(self.client[entry]),
                part=PARTS[self.part[entry]],
                task=int(self.task[entry]),
                ids=self.ids[self.start[entry] : self.start[entry + 1]],
                time=float(self.time[entry]),
                drift=DRIFTS[self.drift[entry]],
            )

    def rows(self, entry: int) -> Tensor:
        """The ids of one set, int64 [n]; shares the manifest's memory."""
        return torch.from_numpy(self.ids[self.start[entry] : self.start[entry + 1]])


def entries_of(sets: Sequence[RowSet]) -> Entries:
    """The sets as columns, in their one order."""
    times = np.array([each.time for each in sets], dtype=np.float64)
    clients = np.array([each.client for each in sets], dtype=np.int64)
    tasks = np.array([each.task for each in sets], dtype=np.int64)
    parts = np.array([PARTS.index(each.part) for each in sets], dtype=np.int64)
    drifts = np.array([DRIFTS.index(each.drift) for each in sets], dtype=np.int64)
    # NaN sorts last, so what never arrives comes after what does.
    order = np.lexsort((tasks, times, parts, clients))
    ids = [np.sort(sets[index].ids) for index in order]
    return Entries(
        client=clients[order],
        part=parts[order],
        task=tasks[order],
        time=times[order],
        drift=drifts[order],
        start=np.concatenate([[0], np.cumsum([len(each) for each in ids])]).astype(np.int64),
        ids=np.concatenate([np.empty(0, dtype=np.int64), *ids]),
    )


@dataclass(frozen=True, eq=False)
class StreamManifest:
    """Which client has which rows of which task when. Equal hashes, equal manifests."""

    fingerprint: str
    """`fingerprint_of` the stream whose rows it deals out."""
    tasks: tuple[str, ...]
    """The names of the stream's tasks."""
    clients: tuple[Client, ...]
    """In the order of their numbers."""
    entries: Entries
    """The entries of the manifest."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """How it was made: partition, arrival, seed. Plain JSON, not part of the hash."""

    def __len__(self) -> int:
        return len(self.clients)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StreamManifest) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)

    @cached_property
    def hash(self) -> str:
        """A sha256 of all but the record, whatever file it came from."""
        entries = self.entries
        clients = [
            (each.name, float(each.joined), None if each.left is None else float(each.left))
            for each in self.clients
        ]
        digest = sha256(json.dumps([self.fingerprint, self.tasks, clients]).encode())
        # Every NaN is NEVER; what distinguishes one NaN from another is not content.
        time = np.where(np.isnan(entries.time), NEVER, entries.time)
        columns = (entries.client, entries.part, entries.task, entries.drift, entries.start)
        for column in (*columns, entries.ids):
            digest.update(column.astype("<i8").tobytes())
        digest.update(time.astype("<f8").tobytes())
        return digest.hexdigest()

    def deliveries(self, client: int) -> tuple[Delivery, ...]:
        """The deliveries of a client, in order: its stream."""
        return tuple(map(self._delivery, self._entries(client, "train", arriving=True)))

    def latest(self, client: int, time: float) -> Delivery | None:
        """The client's current delivery: the last one that has arrived at `time`; None before the
        first."""
        first, end = self._span(client, "train")
        # What never arrives comes after what does.
        arrived = int(np.searchsorted(self.entries.time[first:end], time, side="right"))
        return self._delivery(first + arrived - 1) if arrived else None

    def present(self, time: float) -> list[int]:
        """The clients that can take part at `time`: available, and with rows to train on."""
        started = np.isfinite(self._first) & (self._first <= time)
        candidates: list[int] = np.flatnonzero(started).tolist()
        return [client for client in candidates if self.clients[client].present(time)]

    def next_change(self, time: float) -> float | None:
        """When the next rows arrive or a client leaves after `time`; None if nothing does."""
        index = int(np.searchsorted(self._changes, time, side="right"))
        return float(self._changes[index]) if index < len(self._changes) else None

    def rows(self, client: int, part: Part, task: int | None = None) -> Tensor:
        """The ids of a client's rows of one part, of one task or of all, int64 [n] ascending.

        Training rows count to the task with which they arrive, and those that never do are among
        them.
        """
        found = [
            self.entries.rows(entry)
            for entry in self._entries(client, part)
            if task is None or self.entries.task[entry] == task
        ]
        return torch.cat(found).sort().values if found else torch.empty(0, dtype=torch.int64)

    @cached_property
    def counts(self) -> Tensor:
        """How many rows each client has of each task in each part, int64 [clients, tasks, parts]:
        the weights of every sample-weighted mean."""
        shape = (len(self.clients), len(self.tasks), len(PARTS))
        counts = np.zeros(shape, dtype=np.int64)
        entries = self.entries
        np.add.at(counts, (entries.client, entries.task, entries.part), np.diff(entries.start))
        return torch.from_numpy(counts)

    def _delivery(self, entry: int) -> Delivery:
        entries = self.entries
        return Delivery(
            time=float(entries.time[entry]),
            client=int(entries.client[entry]),
            task=int(entries.task[entry]),
            rows=entries.rows(entry),
            drift=DRIFTS[entries.drift[entry]],
        )

    def _entries(self, client: int, part: Part, arriving: bool = False) -> Iterator[int]:
        for entry in range(*self._span(client, part)):
            if not arriving or np.isfinite(self.entries.time[entry]):
                yield entry

    def _span(self, client: int, part: Part) -> tuple[int, int]:
        """The entries of one part of a client: the first, and that after the last."""
        key = client * len(PARTS) + PARTS.index(part)
        first, end = np.searchsorted(self._keys, [key, key + 1])
        return int(first), int(end)

    @cached_property
    def _keys(self) -> NDArray[np.int64]:
        """The sort keys of entries: client and part as one number."""
        return self.entries.client * len(PARTS) + self.entries.part

    @cached_property
    def _first(self) -> NDArray[np.float64]:
        """When each client's first rows arrive, [clients]; infinite where none do."""
        first = np.full(len(self.clients), np.inf)
        arriving = np.isfinite(self.entries.time)
        np.minimum.at(first, self.entries.client[arriving], self.entries.time[arriving])
        return first

    @cached_property
    def _changes(self) -> NDArray[np.float64]:
        times = self.entries.time[np.isfinite(self.entries.time)]
        leaving = [client.left for client in self.clients if client.left is not None]
        return np.unique(np.concatenate([times, np.array(leaving, dtype=np.float64)]))
