"""What a federated run counts: bytes as they were really sent, who took part, what was refused."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class Traffic:
    """Totals over a run. Each tensor is int64 [clients], by their numbers, or [tasks], by their
    places in the stream."""

    def __init__(self, num_clients: int, num_tasks: int) -> None:
        self.up = torch.zeros(num_clients, dtype=torch.int64)
        """Bytes that each client sent."""
        self.down = torch.zeros(num_clients, dtype=torch.int64)
        """Bytes that each client was sent."""
        self.up_of_task = torch.zeros(num_tasks, dtype=torch.int64)
        """Bytes that clients sent while they were at each task."""
        self.down_of_task = torch.zeros(num_tasks, dtype=torch.int64)
        """Bytes that they were sent."""
        self.asked = torch.zeros(num_clients, dtype=torch.int64)
        """How often each was given work."""
        self.included = torch.zeros(num_clients, dtype=torch.int64)
        """How often an update of each went into the global state."""
        self.shared_models = torch.full((num_clients,), -1)
        """The number of the shared model that each was sent last."""
        self.refused: Counter[str] = Counter()
        """Updates that were refused, by reason."""
        self.fates: Counter[str] = Counter()
        """Of those that were given work: how many updates arrived, and why others did not."""
        self.staleness: Counter[int] = Counter()
        """Of updates, how many rounds ended between their start and their arrival."""

    def travelled(
        self, clients: Sequence[int], tasks: Sequence[int], up: Sequence[int], down: Sequence[int]
    ) -> None:
        """So many bytes went from and to each of these clients, which are at these tasks."""
        add(self.up, clients, up)
        add(self.down, clients, down)
        add(self.up_of_task, tasks, up)
        add(self.down_of_task, tasks, down)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {
            name: each if isinstance(each, Tensor) else {str(key): n for key, n in each.items()}
            for name, each in vars(self).items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        for name, each in vars(self).items():
            if isinstance(each, Tensor):
                setattr(self, name, state[name])
        self.refused, self.fates = Counter(state["refused"]), Counter(state["fates"])
        self.staleness = Counter({int(age): n for age, n in state["staleness"].items()})


def count(tally: Tensor, clients: Iterable[int]) -> None:
    """One more for each of these clients."""
    which = list(clients)
    add(tally, which, [1] * len(which))


def add(tally: Tensor, places: Sequence[int], numbers: Sequence[int]) -> None:
    """A number at each of these places; one may be there several times."""
    where = torch.tensor(places, dtype=torch.int64)
    tally.index_add_(0, where, torch.tensor(numbers, dtype=torch.int64))
