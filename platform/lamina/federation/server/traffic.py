"""What a federated run counts: bytes as they were really sent, who took part, what was refused."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lamina.federation.server.clock import Load, LoadOf, Plan, Start
from lamina.federation.server.run_settings import RunSettings
from lamina.federation.state import GlobalState
from lamina.federation.work import DownloadSizes


class Traffic:
    """Totals over a run. Each tensor is int64 [clients] or [tasks], by their numbers."""

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

    def count_bytes(
        self, clients: Sequence[int], tasks: Sequence[int], up: Sequence[int], down: Sequence[int]
    ) -> None:
        """So many bytes went from (`up`) and to (`down`) each of these clients, which are at these
        tasks."""
        add(self.up, clients, up)
        add(self.down, clients, down)
        add(self.up_of_task, tasks, up)
        add(self.down_of_task, tasks, down)

    def count_exchange(
        self,
        clients: Sequence[int],
        tasks: Sequence[int],
        up: Sequence[int],
        sizes: DownloadSizes,
        shared_model: int,
    ) -> None:
        """Each of these clients was sent the global state, and sent `up` bytes. Those that do not
        have the shared model of this number were sent it too."""
        known = zip(clients, self.shared_models[list(clients)].tolist(), strict=True)
        behind = {client for client, number in known if number != shared_model}
        down = [sizes.state] * len(clients)
        for client in behind:
            down[clients.index(client)] += sizes.shared_model
        self.count_bytes(clients, tasks, up, down)
        self.shared_models[list(behind)] = shared_model

    def count_round(
        self, plan: Plan, others_at: Sequence[int], ages: Iterable[int], sizes: DownloadSizes
    ) -> None:
        """A round is over. Clients whose update did not arrive in time, at the tasks `others_at`,
        were sent the global state in vain. `ages` are the staleness of the accepted updates."""
        others = [each.client for each in plan.others]
        self.count_bytes(others, others_at, [0] * len(others), [sizes.state] * len(others))
        asked = (*plan.arrivals, *plan.others)
        self.count_fates(asked)
        count(self.asked, (each.client for each in asked))
        self.staleness.update(ages)

    def count_fates(self, starts: Iterable[Start]) -> None:
        """What became of clients that were given work."""
        self.fates.update(each.fate for each in starts)

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


def add(tally: Tensor, indices: Sequence[int], numbers: Sequence[int]) -> None:
    """Add a number at each of these indices; an index may be there several times."""
    where = torch.tensor(indices, dtype=torch.int64)
    tally.index_add_(0, where, torch.tensor(numbers, dtype=torch.int64))


def load_of(settings: RunSettings, state: GlobalState, version: int, time: float) -> LoadOf:
    """What each client has to do, receive and send if it is given work at a time. It starts from
    `state`, the global state of this version."""
    aggregator, manifest = settings.aggregator, settings.manifest
    down = sum(each.nbytes for each in (*state.tensors.values(), *state.ledger.values()))
    up = sum(each.nbytes for n, each in state.tensors.items() if aggregator.sends(version, n))

    def load(client: int) -> Load:
        delivery = manifest.latest(client, time)
        assert delivery is not None, "a client without rows is not asked"
        return Load(settings.num_steps(len(delivery.rows)), down, up)

    return load
