"""The replay memory of one learner: which rows it keeps, and which it draws at which step."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lamina.core import Batch, generator_of
from lamina.memory.base import Policy

RowsOf = Callable[[Tensor], Batch]
"""Rows of the stream by their ids, in the given order."""


class Memory:
    """Exemplars as row ids, with what a strategy stored beside them. Their inputs stay where the
    stream is."""

    def __init__(self, policy: Policy, seed: int) -> None:
        self.policy = policy
        self.seed = seed
        self.num_offered = 0
        self.ids = torch.empty(0, dtype=torch.int64)
        self.labels = torch.empty(0, dtype=torch.int64)
        self.keys = torch.empty(0, dtype=torch.float64)
        self.arrival = torch.empty(0, dtype=torch.int64)
        self.extras: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def offer(self, batch: Batch) -> None:
        """Show every row of a batch once; the policy decides what stays. `batch.labels` are class
        numbers [n]."""
        number = len(batch)
        generator = generator_of(self.seed, "memory", self.num_offered)
        keys = torch.rand(number, generator=generator, dtype=torch.float64)
        arrival = torch.arange(self.num_offered, self.num_offered + number)
        self.num_offered += number
        self.ids = torch.cat([self.ids, batch.ids])
        self.labels = torch.cat([self.labels, batch.labels.cpu()])
        self.keys = torch.cat([self.keys, keys])
        self.arrival = torch.cat([self.arrival, arrival])
        if batch.extras:
            kept = self.extras or {name: value[:0].cpu() for name, value in batch.extras.items()}
            self.extras = {name: torch.cat([kept[name], batch.extras[name].cpu()]) for name in kept}
        self._keep_best()

    def draw(self, number: int, rows_of: RowsOf, step: int, name: str = "") -> Batch | None:
        """At most `number` exemplars without repetition, the same for the same (seed, step, name).

        None where that would be no rows at all.
        """
        if min(number, len(self)) == 0:
            return None
        generator = generator_of(self.seed, "replay", name, step)
        chosen = torch.randperm(len(self), generator=generator)[:number]
        return replace(
            rows_of(self.ids[chosen]),
            task=None,
            extras={key: value[chosen] for key, value in self.extras.items()},
        )

    def num_bytes(self, rows_of: RowsOf) -> int:
        """What the exemplars would take by themselves: inputs, labels and extras."""
        if len(self) == 0:
            return 0
        batch = rows_of(self.ids)
        tensors = [*batch.inputs.values(), batch.labels, *self.extras.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next offers and draws depend on."""
        return {
            "num_offered": self.num_offered,
            "ids": self.ids,
            "labels": self.labels,
            "keys": self.keys,
            "arrival": self.arrival,
            "extras": dict(self.extras),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.num_offered = state["num_offered"]
        self.ids, self.labels = state["ids"], state["labels"]
        self.keys, self.arrival = state["keys"], state["arrival"]
        self.extras = dict(state["extras"])

    def _keep_best(self) -> None:
        priority = self.policy.priority(self.labels, self.keys, self.arrival)
        best = torch.argsort(priority, stable=True)[: self.policy.size].sort().values
        self.ids, self.labels = self.ids[best], self.labels[best]
        self.keys, self.arrival = self.keys[best], self.arrival[best]
        self.extras = {name: value[best] for name, value in self.extras.items()}


class Replay:
    """The memory as one training step sees it: a strategy draws from it, and can do
    nothing else.
    """

    def __init__(self, memory: Memory | None, rows_of: RowsOf, step: int, device: Any) -> None:
        self._memory = memory
        self._rows_of = rows_of
        self._step = step
        self._device = device

    def draw(self, number: int, name: str = "") -> Batch | None:
        """At most `number` exemplars; None while the memory is empty. Draws of other names are
        independent."""
        if self._memory is None:
            return None
        batch = self._memory.draw(number, self._rows_of, self._step, name)
        return None if batch is None else batch.to(self._device)
