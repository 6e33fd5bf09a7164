"""Who trains a trial together: one process, or several that each take a share of every batch.

Losses and gradients are averaged over workers, by how many rows each had in its loss
(`StepOutput.rows`), or where answers are tokens, how many tokens. So several workers learn what one
does, up to rounding, where a loss is one mean over rows. Where it adds several, of the batch and of
what is drawn from a memory, they do where the strategy asks for `Replay.balance`, or both divide
alike. A loss that looks at a batch as a whole (a correlation of features) sees each worker's share.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from lamina.core import Batch, Summary


class Workers(Protocol):
    """Data-parallel processes that hold the same model. What they agree on is added up over all."""

    rank: int
    """The rank of this worker, from 0."""
    size: int
    """The number of workers."""

    def add(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Each tensor summed over all workers; they have one shape everywhere."""
        ...

    def gather(self, tensor: Tensor) -> Tensor:
        """The rows of all workers, [n, ...], those of rank 0 first; n may differ."""
        ...


class Alone:
    """One process."""

    rank = 0
    size = 1

    def add(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The tensors as they are."""
        return list(tensors)

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensor as it is."""
        return tensor


class ProcessGroup:
    """The default group of torch.distributed, which must have been initialised (Ray Train does)."""

    def __init__(self) -> None:
        self.rank = torch.distributed.get_rank()
        self.size = torch.distributed.get_world_size()

    def add(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """One all-reduce of all tensors, laid end to end."""
        if not tensors:
            return []
        flat = torch.cat([each.detach().to(torch.float64).flatten() for each in tensors])
        torch.distributed.all_reduce(flat)
        pieces = flat.split([each.numel() for each in tensors])
        return [
            piece.reshape(each.shape).to(each.dtype)
            for piece, each in zip(pieces, tensors, strict=True)
        ]

    def gather(self, tensor: Tensor) -> Tensor:
        """All-gather of as many rows as the longest worker has, then cut to what each has."""
        lengths = torch.zeros(self.size, dtype=torch.int64, device=tensor.device)
        lengths[self.rank] = len(tensor)
        torch.distributed.all_reduce(lengths)
        padded = tensor.new_zeros(int(lengths.max()), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        everybodys = [torch.empty_like(padded) for _ in range(self.size)]
        torch.distributed.all_gather(everybodys, padded)
        return torch.cat([each[:n] for each, n in zip(everybodys, lengths.tolist(), strict=True)])


def share_of(batch: Batch, workers: Workers) -> Batch:
    """Every size-th row, from the worker's rank on, no longer than they are; all rows where there
    are fewer than workers.

    A share knows the classes of the whole batch, for losses that depend on them.
    """
    if workers.size == 1 or len(batch) < workers.size:
        return batch
    share = batch[slice(workers.rank, None, workers.size)].trimmed()
    return replace(share, shared_classes=batch.classes()) if batch.labels.dim() == 1 else share


def weight_of(rows: Batch, workers: Workers) -> float:
    """The weight of a worker's mean in the mean over all workers' rows or tokens."""
    return part_of(rows.num_terms(), workers, rows.labels.device)


def part_of(count: int, workers: Workers, device: torch.device) -> float:
    """A worker's count as a part of the sum over all workers, which talk through tensors on this
    kind of device."""
    if workers.size == 1:
        return 1.0
    own = torch.tensor(count, device=device)
    return float(own / workers.add([own])[0])


def added(summary: Summary, workers: Workers) -> Summary:
    """The sum of a summary over all workers."""
    if workers.size == 1:
        return summary
    sums = workers.add(list(summary.sums.values()))
    rows = {name: workers.gather(value) for name, value in summary.rows.items()}
    return Summary(dict(zip(summary.sums, sums, strict=True)), rows)
