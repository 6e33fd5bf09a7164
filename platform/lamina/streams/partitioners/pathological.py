"""A few classes each (after McMahan et al., 2017): a client sees k classes and no other."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lamina.registry import InputError
from lamina.streams.partitioners.base import Partitioner, cells_of, dealt
from lamina.streams.rows import Rows


@dataclass(frozen=True)
class Pathological(Partitioner):
    """Every client has exactly k classes, and a class is shared evenly by the clients that have it,
    whose numbers differ by one at most.

    McMahan et al. deal out shards, which gives at most k classes or a few more (`shard`).
    """

    classes: int = 2
    """k, of the whole stream or of each task."""
    each_task: bool = False
    """Whether a client has k classes of every task, so that it takes part in all, or k of all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classes < 1:
            raise InputError(
                f"federation.partition.classes: {self.classes} is too few (allowed: 1, 2, ...)"
            )

    def assign(
        self, rows: Rows, num_clients: int, random: np.random.Generator
    ) -> NDArray[np.int64]:
        """Raises InputError where there are fewer than k classes, or too few clients for all."""
        scope = rows.tasks if self.each_task else np.zeros_like(rows.tasks)
        cell, (scopes, labels, _, _) = cells_of(scope, rows.labels, rows.tasks, rows.parts)
        shares = np.zeros((len(labels), num_clients))
        for each in np.unique(scopes):
            inside = scopes == each
            known, which = np.unique(labels[inside], return_inverse=True)
            where = f"task {rows.task_names[each]!r}" if self.each_task else "the stream"
            holders = _holders(self.classes, len(known), num_clients, where, random)
            shares[inside] = (holders / holders.sum(axis=1, keepdims=True))[which]
        return dealt(cell, shares, random)


def _holders(
    k: int, num_classes: int, num_clients: int, where: str, random: np.random.Generator
) -> NDArray[np.float64]:
    """1 where a client has a class, else 0, [classes, clients]: each client takes k of those that
    the fewest have."""
    if k > num_classes or k * num_clients < num_classes:
        low = -(-num_classes // num_clients)
        raise InputError(
            f"federation.partition.classes: {k} does not fit {num_clients} clients and the "
            f"{num_classes} classes of {where} (allowed: {low} to {num_classes})"
        )
    holders = np.zeros((num_classes, num_clients))
    for client in range(num_clients):
        chosen = np.lexsort((random.random(num_classes), holders.sum(axis=1)))[:k]
        holders[chosen, client] = 1
    return holders
