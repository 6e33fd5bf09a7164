"""All clients alike: every row is as likely to go to one as to another."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lamina.streams.partitioners.base import Partitioner, cells_of, dealt
from lamina.streams.rows import Rows


@dataclass(frozen=True)
class Iid(Partitioner):
    """Equally many rows of each task and part for every client, up to one, whatever their class."""

    def assign(
        self, rows: Rows, num_clients: int, random: np.random.Generator
    ) -> NDArray[np.int64]:
        """Even shares of every task and part."""
        cell, (tasks, _) = cells_of(rows.tasks, rows.parts)
        return dealt(cell, np.full((len(tasks), num_clients), 1 / num_clients), random)
