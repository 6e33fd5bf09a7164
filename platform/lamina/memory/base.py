"""Memory policies decide which rows of the past are kept. They are pure functions of labels, random
keys and arrival."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lamina.checks import check_fields

Entry = Literal["as_they_pass", "task_end"]
"""When rows enter a memory: each batch after its first step, or all rows of a task at its end."""


@dataclass(frozen=True)
class Policy(ABC):
    """A rule that chooses exemplars. It holds no rows, so it gives one result wherever the rows
    live."""

    size: int
    """Exemplars kept, over all tasks together."""
    entry: Entry | None = None
    """`as_they_pass`: each row after the first step that trained on it, so that a task's new
    classes meet old ones in the same batch; with several epochs, in the first. `task_end`: when the
    task is learned, so that a task is never replayed to itself. Default: the strategy's own."""

    def __post_init__(self) -> None:
        check_fields("memory", self, positive=["size"])

    @abstractmethod
    def priority(self, labels: Tensor, keys: Tensor, arrival: Tensor) -> Tensor:
        """How much each of n rows is wanted, float64 [n]: the `size` smallest numbers are kept.

        `labels` int64 [n]; `keys` float64 [n] in [0, 1), a random number that a row keeps for life;
        `arrival` int64 [n], the number of rows that came before it.
        """


def rank_in_class(labels: Tensor, order: Tensor) -> Tensor:
    """The place of each row among those of its class when sorted by `order`, int64 [n], from 0."""
    by_order = torch.argsort(order, stable=True)
    by_class = by_order[torch.argsort(labels[by_order], stable=True)]
    sorted_labels = labels[by_class]
    positions = torch.arange(len(labels))
    starts = torch.cat([torch.ones(1, dtype=torch.bool), sorted_labels[1:] != sorted_labels[:-1]])
    first = torch.where(starts, positions, 0).cummax(dim=0).values
    ranks = torch.empty_like(positions)
    ranks[by_class] = positions - first
    return ranks
