"""From a stream, a partition and an arrival process to a stream manifest. Pure."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from lamina.core import PARTS, D, Part, Stream, seed_of
from lamina.streams.arrivals import Arrival
from lamina.streams.base import Table
from lamina.streams.manifest import Client, Drift, RowSet, StreamManifest, entries_of
from lamina.streams.partitioners import Partitioner, partition
from lamina.streams.rows import Rows, random_ranks, rows_of

Ints = NDArray[np.int64]
Draw = Callable[[str], np.random.Generator]
"""A generator for each purpose, so that what one draws moves nothing that another draws."""

_EVALUATED: tuple[Part, ...] = ("validation", "test")


def make_manifest(
    stream: Stream[D],
    num_clients: int | None,
    partitioner: Partitioner,
    arrival: Arrival,
    seed: int,
    table: Table | None = None,
) -> StreamManifest:
    """Deal the rows of `stream` out to clients and say when they come.

    A function of the settings, the seed and the stream's fingerprint. `table` is what the stream
    was made of; only partitions by owner or group need it. `num_clients` may be None for a natural
    partition: a client for each owner. Raises InputError, naming the job's key, where settings and
    rows do not fit.
    """
    rows = rows_of(stream, table)
    dealt = partition(partitioner, rows, num_clients, seed)
    late = _chosen(arrival.joining, len(dealt.names), seed, "joining", rows.fingerprint)
    gone = _chosen(arrival.leaving, len(dealt.names), seed, "leaving", rows.fingerprint)
    clients: list[Client] = []
    sets: list[RowSet] = []
    for number, name in enumerate(dealt.names):
        mine = dealt.rows(number)
        draw = _draws(seed, rows.fingerprint, number)
        client, arriving = _arriving(
            number, name, rows, mine, arrival, draw, number in late, number in gone
        )
        clients.append(client)
        sets += arriving + _evaluated(number, rows, mine)
    return StreamManifest(
        fingerprint=rows.fingerprint,
        tasks=rows.task_names,
        clients=tuple(clients),
        entries=entries_of(sets),
        record={
            "clients": len(clients),
            "partition": partitioner.settings,
            "arrival": arrival.settings,
            "seed": seed,
        },
    )


def _draws(seed: int, fingerprint: str, client: int) -> Draw:
    return lambda purpose: np.random.default_rng(
        seed_of(seed, "arrival", purpose, fingerprint, client)
    )


def _chosen(share: float, num_clients: int, seed: int, purpose: str, fingerprint: str) -> set[int]:
    """A share of the clients, drawn at random."""
    random = np.random.default_rng(seed_of(seed, "arrival", purpose, fingerprint))
    return set(random.permutation(num_clients)[: round(share * num_clients)].tolist())


def _arriving(
    number: int,
    name: str,
    rows: Rows,
    mine: Ints,
    arrival: Arrival,
    draw: Draw,
    joins_late: bool,
    leaves_early: bool,
) -> tuple[Client, list[RowSet]]:
    """One client, and its training rows: what arrives and what it misses.

    It joins so late, and leaves so early, that something arrives in between.
    """
    training = mine[rows.parts[mine] == PARTS.index("train")]
    if len(training) == 0:
        return Client(name), []
    num_tasks = len(rows.task_names)
    order = np.arange(num_tasks)
    if arrival.order == "own":
        order = draw("order").permutation(num_tasks)
    slot = _slots(rows.tasks[training], order, arrival, draw)
    slot = _blurred(slot, arrival.pieces, arrival.blurry, draw)
    slots, which = np.unique(slot, return_inverse=True)
    tasks: list[int] = order[slots // arrival.pieces % num_tasks].tolist()

    joined = draw("join").uniform(0, arrival.last(name, slots)) if joins_late else 0.0
    times = arrival.times(name, slots, joined, draw("times"))
    arrives = times >= joined
    left = None
    if leaves_early:
        # A client with one delivery leaves within a step after it.
        first, end = times[arrives][0], times[-1] + 1
        left = float(end - draw("leave").random() * (end - first))
        arrives &= times < left

    coming = np.flatnonzero(arrives)
    drifts = dict(
        zip(coming.tolist(), _drifts([tasks[each] for each in coming], arrival.blurry), strict=True)
    )
    sets = []
    for each, task in enumerate(tasks):
        ids = rows.ids[training[which == each]]
        if each in drifts:
            sets.append(RowSet(number, "train", task, ids, float(times[each]), drifts[each]))
        else:
            sets.append(RowSet(number, "train", task, ids))
    return Client(name, joined, left), sets


def _slots(tasks: Ints, order: Ints, arrival: Arrival, draw: Draw) -> Ints:
    """The slot of each of a client's rows, [n]: rows of a task are dealt out evenly over the times
    that it comes, then over its pieces."""
    index = np.argsort(order)[tasks]
    if arrival.recurrences == arrival.pieces == 1:
        return index
    rank = random_ranks(tasks, draw("slots"))
    visit = rank % arrival.recurrences * len(order) + index
    return visit * arrival.pieces + rank // arrival.recurrences % arrival.pieces


def _blurred(slot: Ints, pieces: int, share: float, draw: Draw) -> Ints:
    """`slot`, with a share of the rows of each task moved over one of its borders: to the last
    piece before or the first piece after, whichever is drawn."""
    if share == 0:
        return slot
    visits, which, sizes = np.unique(slot // pieces, return_inverse=True, return_counts=True)
    if len(visits) == 1:
        return slot
    random = draw("blur")
    moves = random_ranks(which, random) < (share * sizes).astype(np.int64)[which]
    forward = random.random(len(slot)) < 0.5
    forward = (forward | (which == 0)) & (which < len(visits) - 1)
    first = np.full(len(visits), slot.max())
    np.minimum.at(first, which, slot)
    last = np.zeros(len(visits), dtype=np.int64)
    np.maximum.at(last, which, slot)
    ahead, back = np.minimum(which + 1, len(visits) - 1), np.maximum(which - 1, 0)
    return np.where(moves, np.where(forward, first[ahead], last[back]), slot)


def _drifts(tasks: Sequence[int], blurry: float) -> list[Drift]:
    """How each delivery of a client differs from the one before."""
    found: list[Drift] = []
    for index, task in enumerate(tasks):
        if index == 0:
            found.append("start")
        elif task == tasks[index - 1]:
            found.append("none")
        elif task in tasks[:index]:
            found.append("recurring")
        else:
            found.append("gradual" if blurry else "sudden")
    return found


def _evaluated(number: int, rows: Rows, mine: Ints) -> list[RowSet]:
    """The rows of a client for validation and test of each task."""
    sets = []
    for part in _EVALUATED:
        here = mine[rows.parts[mine] == PARTS.index(part)]
        tasks = rows.tasks[here]
        sets += [
            RowSet(number, part, int(task), rows.ids[here[tasks == task]])
            for task in np.unique(tasks)
        ]
    return sets
