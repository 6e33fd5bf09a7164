"""Which client each row of a stream goes to: what a partitioner is, and how shares become rows."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamina.core import PARTS, seed_of
from lamina.registry import InputError
from lamina.streams.rows import Rows, random_ranks

_TRIES = 100
"""Draws before a partition that leaves a client with too few rows is refused."""


@dataclass(frozen=True)
class Partition:
    """Every row of a stream at exactly one client."""

    names: tuple[str, ...]
    """What people call the clients."""
    client: NDArray[np.int64]
    """[N], the client of each row of `Rows`, in its order."""

    def rows(self, client: int) -> NDArray[np.int64]:
        """The places in `Rows` of one client's rows, ascending."""
        start, end = np.searchsorted(self._sorted, [client, client + 1])
        return self._order[start:end]

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        """The places of all rows, by client: a federation is as large as its rows, not as its rows
        times its clients."""
        return np.argsort(self.client, kind="stable")

    @cached_property
    def _sorted(self) -> NDArray[np.int64]:
        return self.client[self._order]


@dataclass(frozen=True)
class Partitioner(ABC):
    """A rule that deals rows out to clients.

    A member is a module of `lamina.streams.partitioners`; its fields are its keys in the job's
    `federation.partition`. What a client trains on, selects by and is tested on follow one law:
    shares are drawn once, and applied to every task and part.
    """

    min_rows: int = 1
    """How many training rows every client has at least; a draw that gives fewer is drawn again.
    0 allows clients without rows."""

    def __post_init__(self) -> None:
        if self.min_rows < 0:
            raise InputError(
                f"federation.partition.min_rows: {self.min_rows} is negative "
                "(allowed: 0, 1, 2, ...)"
            )

    @abstractmethod
    def assign(
        self, rows: Rows, num_clients: int, random: np.random.Generator
    ) -> NDArray[np.int64]:
        """The client of every row, [N], from 0 to `num_clients` - 1.

        Raises InputError, naming the job's key, where that cannot be had of these rows.
        """

    def names(self, rows: Rows, num_clients: int) -> tuple[str, ...]:
        """What people call the clients."""
        width = len(str(num_clients - 1))
        return tuple(f"client {client:0{width}}" for client in range(num_clients))

    def natural_clients(self, rows: Rows) -> int | None:
        """How many clients the rows have by nature; None where that is for the job to say."""
        return None

    @property
    def kind(self) -> str:
        """Its name in a job."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def settings(self) -> dict[str, Any]:
        """Its section of the job, as plain values."""
        return {"kind": self.kind, **asdict(self)}


def partition(
    partitioner: Partitioner, rows: Rows, num_clients: int | None, seed: int
) -> Partition:
    """The client of every row: a function of the partitioner, the rows' fingerprint, the number of
    clients and the seed.

    `num_clients` may be None where rows have clients by nature. Raises InputError where the
    partitioner does not fit the rows, or where a client has too few rows in every draw.
    """
    if num_clients is None:
        num_clients = partitioner.natural_clients(rows)
    if num_clients is None:
        raise InputError(
            f"federation.clients: null, and a partition of kind {partitioner.kind!r} does not say "
            "how many there are (allowed: 1, 2, ...; null with kind 'natural')"
        )
    if num_clients < 1:
        raise InputError(f"federation.clients: {num_clients} is too few (allowed: 1, 2, ...)")
    training = rows.parts == PARTS.index("train")
    before: NDArray[np.int64] | None = None
    for attempt in range(_TRIES):
        named = seed_of(seed, "partition", partitioner.kind, rows.fingerprint, num_clients, attempt)
        found = partitioner.assign(rows, num_clients, np.random.default_rng(named))
        assert found.shape == rows.ids.shape
        sizes = np.bincount(found[training], minlength=num_clients)
        if sizes.min() >= partitioner.min_rows:
            return Partition(partitioner.names(rows, num_clients), found)
        if before is not None and np.array_equal(before, found):
            break
        before = found
    poor = int((sizes < partitioner.min_rows).sum())
    raise InputError(
        f"federation.partition.min_rows: {poor} of {num_clients} clients "
        f"{'has' if poor == 1 else 'have'} fewer than {partitioner.min_rows} training rows of "
        f"{int(training.sum())} (take fewer clients or a more even partition; 0 allows clients "
        "without rows)"
    )


def cells_of(*columns: NDArray[np.int64]) -> tuple[NDArray[np.int64], Sequence[NDArray[np.int64]]]:
    """The cell of each row [N], numbered from 0, and the value of each column in each cell [C]."""
    values, cell = np.unique(np.stack(columns), axis=1, return_inverse=True)
    return cell.reshape(-1), list(values)


def dealt(
    cell: NDArray[np.int64], shares: NDArray[np.float64], random: np.random.Generator
) -> NDArray[np.int64]:
    """Rows of each cell dealt out at random, so that a client has its share of the cell, rounded up
    or down at random (systematic sampling: the expectation is exact even where a cell has fewer
    rows than there are clients).

    `cell` [N], every number below C occurring; `shares` [C, clients], each row with the sum 1.
    Returns the client of each row, [N].
    """
    num_cells, num_clients = shares.shape
    sizes = np.bincount(cell, minlength=num_cells)
    # Clients come in random order in each cell, so those that are rounded up together differ.
    turn = np.argsort(random.random(shares.shape), axis=1)
    ends = np.take_along_axis(shares, turn, axis=1).cumsum(axis=1)
    ends = ends / ends[:, -1:]
    position = (random_ranks(cell, random) + random.random((num_cells,))[cell]) / sizes[cell]
    # One search for all cells: those of cell c end between c and c + 1.
    ends = (ends + np.arange(num_cells)[:, None]).reshape(-1)
    slot = np.searchsorted(ends, cell + position, side="right") - cell * num_clients
    # A position next to 1 may have been rounded to it.
    return turn[cell, np.minimum(slot, num_clients - 1)]


def positive(key: str, value: float) -> None:
    """Raises InputError unless the number that `federation.partition` gives for `key` is above 0
    and finite."""
    if not 0 < value < float("inf"):
        raise InputError(f"federation.partition.{key}: {value!r} is not allowed (allowed: above 0)")
