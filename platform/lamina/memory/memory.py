"""The replay memory of one learner: which rows it keeps, and which it draws at which step."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import nan
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.core import Batch, generator_of
from lamina.memory.base import Policy

RowsOf = Callable[[Tensor], Batch]
"""Rows of the stream by their ids, in the given order."""
Note = Callable[[Batch], Mapping[str, Tensor]]
"""Tensors that a strategy keeps beside some rows."""


def _nothing(_: Batch) -> Mapping[str, Tensor]:
    return {}


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

    def offer(self, batch: Batch, note: Note = _nothing) -> None:
        """Show every row of a batch once; the policy decides what stays. `batch.labels` are class
        numbers [n].

        `note` says what is kept beside the rows that stay, each [n, ...]. A matrix of fewer columns
        than another gets NaN on the right.
        """
        before, number = self.num_offered, len(batch)
        generator = generator_of(self.seed, "memory", before)
        keys = torch.rand(number, generator=generator, dtype=torch.float64)
        self.num_offered += number
        self.ids = torch.cat([self.ids, batch.ids])
        self.labels = torch.cat([self.labels, _kinds(batch)])
        self.keys = torch.cat([self.keys, keys])
        self.arrival = torch.cat([self.arrival, torch.arange(before, self.num_offered)])
        best = self._best()
        self.ids, self.labels = self.ids[best], self.labels[best]
        self.keys, self.arrival = self.keys[best], self.arrival[best]
        is_new = self.arrival >= before
        kept = {name: value[best[~is_new]] for name, value in self.extras.items()}
        if is_new.any():
            noted = note(batch[self.arrival[is_new] - before])
            kept = {
                name: _stacked(kept.get(name, value[:0]), value.cpu())
                for name, value in noted.items()
            }
        self.extras = kept

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
        """The size of the exemplars in bytes: inputs, labels and extras."""
        if len(self) == 0:
            return 0
        return replace(rows_of(self.ids), extras=self.extras).num_bytes()

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

    def _best(self) -> Tensor:
        """The rows that the policy keeps, in order."""
        priority = self.policy.priority(self.labels, self.keys, self.arrival)
        return torch.argsort(priority, stable=True)[: self.policy.size].sort().values


def _kinds(batch: Batch) -> Tensor:
    """The groups that a policy balances, int64 [n]: classes; or tasks, where answers are tokens."""
    if batch.labels.dim() == 1:
        return batch.labels.cpu()
    return torch.full((len(batch),), 0 if batch.task is None else batch.task.index)


def _stacked(first: Tensor, second: Tensor) -> Tensor:
    """The rows of both matrices; the narrower one is filled with NaN on the right."""
    if first.dim() != 2:
        return torch.cat([first.cpu(), second])
    width = max(first.shape[1], second.shape[1])
    padded = [F.pad(each, (0, width - each.shape[1]), value=nan) for each in (first.cpu(), second)]
    return torch.cat(padded)


class Replay:
    """The memory as one training step sees it: a strategy can draw from it, and do nothing else."""

    def __init__(
        self,
        memory: Memory | None,
        rows_of: RowsOf,
        step: int,
        device: torch.device | str,
        share: Callable[[Batch], Batch] = lambda batch: batch,
        weigh: Callable[[int], float] = lambda _: 1.0,
        batch_size: int | None = None,
    ) -> None:
        """`share`, `weigh` and `batch_size` where several workers take the step together: of rows
        this worker's own, what its count is of all workers', and the rows of the whole batch."""
        self._memory = memory
        self._rows_of = rows_of
        self._step = step
        self._device = device
        self._share = share
        self._weigh = weigh
        self._batch_size = batch_size

    def __len__(self) -> int:
        """The number of exemplars."""
        return 0 if self._memory is None else len(self._memory)

    def draw(self, number: int, name: str = "") -> Batch | None:
        """At most `number` exemplars; None while the memory is empty. Draws of other names are
        independent."""
        if self._memory is None:
            return None
        batch = self._memory.draw(number, self._rows_of, self._step, name)
        return None if batch is None else self._share(batch).to(self._device)

    def everything(self, name: str = "") -> Batch | None:
        """All exemplars in the order of a draw, on every worker; None while the memory is empty."""
        if self._memory is None:
            return None
        batch = self._memory.draw(len(self), self._rows_of, self._step, name)
        return None if batch is None else batch.to(self._device)

    def share(self, rows: Batch | None) -> Batch | None:
        """Of rows that a strategy drew by itself, alike on every worker, those of this one."""
        return None if rows is None else self._share(rows)

    def batch_size(self, batch: Batch) -> int:
        """How many rows the step has, of which `batch` are this worker's."""
        return len(batch) if self._batch_size is None else self._batch_size

    def balance(self, terms: int, batch: Batch) -> float:
        """By what a mean over so many terms is multiplied beside one over `batch`. Workers weigh a
        loss by the terms of its rows, and may have other shares of exemplars and of the batch."""
        return self._weigh(terms) / self._weigh(batch.num_terms())
