"""What was right after a step of the stream, of every client on every task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lamina.core import Part
from lamina.evaluation.fairness import mean_over_clients, quantiles
from lamina.federation.work import Flags
from lamina.streams.manifest import StreamManifest

EVALUATED: tuple[Part, ...] = ("validation", "test")


@dataclass(frozen=True)
class Scores:
    """How many rows were answered rightly after a step of the stream.

    By part of the data (validation, test), counts [clients + 1, tasks]. The last row is the global
    state's, on every row of a task.
    """

    step: int
    right: Mapping[str, Tensor]
    asked: Mapping[str, Tensor]
    alone: Mapping[str, Tensor] = field(default_factory=dict)
    """float64 [n, 3]: a client, the task that it was at, and the accuracy of its own model on it,
    after its steps of the task's last round and before the others' were averaged in. Without the
    parts that nobody was asked for."""

    def plain(self) -> dict[str, Any]:
        """As a checkpoint packs it."""
        counts = {key: dict(getattr(self, key)) for key in ("right", "asked", "alone")}
        return {"step": self.step, **counts}

    def spatial_forgetting(self, part: Part) -> list[tuple[float, float]]:
        """L and G of each client that was asked for L: its accuracy on its task before and after
        aggregation."""
        if part not in self.alone:
            return []
        clients, tasks = self.alone[part][:, :2].long().unbind(dim=1)
        served = self.right[part][clients, tasks] / self.asked[part][clients, tasks]
        return list(zip(self.alone[part][:, 2].tolist(), served.tolist(), strict=True))

    def metrics(self, measure: str) -> dict[str, float]:
        """What is worth recording, by part of the data: the accuracy on the rows of all, quantiles
        of the clients' accuracies, and what they lose to aggregation; under the name of the
        measure."""
        found = {}
        for part in EVALUATED:
            share = self.right[part].sum(dim=1) / self.asked[part].sum(dim=1)
            found[f"{part}/pooled_{measure}"] = float(share[-1])
            clients = share[:-1]
            found |= over_clients(f"{part}/{measure}", clients[~clients.isnan()].tolist())
            drop = mean_over_clients(
                [before - after for before, after in self.spatial_forgetting(part)]
            )
            found |= {} if drop is None else {f"{part}/spatial_forgetting": drop}
        return found


def scores_of(
    step: int,
    answers: Sequence[tuple[int | None, int, Flags]],
    manifest: StreamManifest,
    ids: Mapping[tuple[Part, int], Tensor],
    personal: bool,
    alone: Mapping[str, Tensor],
) -> Scores:
    """The scores after a step.

    `answers` are of a client, or (None) of the global state on all rows, to a task; `ids`, by part
    and task, the ids of its rows. Where clients serve models of their own (`personal`), the last
    row is the sum of theirs.
    """
    shape = (len(manifest) + 1, len(manifest.tasks))
    right: dict[str, Tensor] = {}
    asked: dict[str, Tensor] = {}
    for part in EVALUATED:
        right[part] = torch.zeros(shape, dtype=torch.int64)
        asked[part] = torch.zeros(shape, dtype=torch.int64)
        for client, task, of_parts in answers:
            flags = of_parts[part]
            row = len(manifest) if client is None else client
            right[part][row, task] = flags.sum()
            asked[part][row, task] = len(flags)
            if client is None:
                for each in range(len(manifest)):
                    own = manifest.rows(each, part, task)
                    answered = flags[torch.searchsorted(ids[part, task], own)]
                    right[part][each, task] = answered.sum()
                    asked[part][each, task] = len(answered)
        if personal:
            right[part][-1] = right[part][:-1].sum(dim=0)
            asked[part][-1] = asked[part][:-1].sum(dim=0)
    return Scores(step, right, asked, alone)


def with_accuracies_alone(
    before: Mapping[str, Tensor],
    clients: Sequence[int],
    tasks: Sequence[int],
    answers: Sequence[Flags],
) -> dict[str, Tensor]:
    """`Scores.alone` with rows for clients that were evaluated before the others' updates were
    averaged in. `answers` are each client's own, at its task; empty where it was not evaluated."""
    found = dict(before)
    for part in EVALUATED:
        rows = [
            (client, task, float(flags[part].double().mean()))
            for client, task, flags in zip(clients, tasks, answers, strict=True)
            if part in flags and len(flags[part]) > 0
        ]
        if rows:
            earlier = before.get(part, torch.empty(0, 3, dtype=torch.float64))
            found[part] = torch.cat([earlier, torch.tensor(rows, dtype=torch.float64)])
    return found


def over_clients(name: str, values: Sequence[float]) -> dict[str, float]:
    """The mean and the quantiles of a number of clients, by names; nothing of none."""
    mean = mean_over_clients(values)
    said = {} if mean is None else {f"{name}/mean": mean}
    return said | {f"{name}/{at}": value for at, value in quantiles(values).items()}
