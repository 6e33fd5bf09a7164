"""Shards (McMahan et al., 2017): rows sorted by class and cut into equal pieces, a few for each."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lamina.core import PARTS
from lamina.registry import InputError
from lamina.streams.partitioners.base import Partitioner
from lamina.streams.rows import Rows


@dataclass(frozen=True)
class Shard(Partitioner):
    """Each part is sorted by class and cut into clients x shards pieces of equal size; a client
    gets the same pieces of train, validation and test, drawn at random.

    So its parts have nearly the same classes: a piece that crosses a border between two classes
    may do so a few rows earlier or later.
    """

    shards: int = 2
    """Pieces for each client."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shards < 1:
            raise InputError(
                f"federation.partition.shards: {self.shards} is too few (allowed: 1, 2, ...)"
            )

    def assign(
        self, rows: Rows, num_clients: int, random: np.random.Generator
    ) -> NDArray[np.int64]:
        """Raises InputError where there are more shards than training rows."""
        num_shards = num_clients * self.shards
        owner = random.permutation(num_shards) // self.shards
        client = np.empty_like(rows.ids)
        for part, name in enumerate(PARTS):
            here = np.flatnonzero(rows.parts == part)
            if name == "train" and len(here) < num_shards:
                raise InputError(
                    f"federation.partition.shards: {self.shards} for each of {num_clients} clients "
                    f"is more than {len(here)} training rows "
                    f"(allowed: 1 to {max(len(here) // num_clients, 1)})"
                )
            by_class = here[np.lexsort((random.random(len(here)), rows.labels[here]))]
            client[by_class] = owner[np.arange(len(here)) * num_shards // max(len(here), 1)]
        return client
