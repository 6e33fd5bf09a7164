"""The costs of a trial so far: time, operations, memory, stored numbers."""

import resource
from collections.abc import Mapping
from copy import copy
from dataclasses import asdict, dataclass, field
from typing import Any

import torch


@dataclass
class Costs:
    """Sums, and their growth in each task. Plain numbers: part of a trial's state."""

    train_seconds: float = 0.0
    """Seconds of training, with previews and reviews."""
    evaluation_seconds: float = 0.0
    """Seconds of evaluation."""
    trained_parameters: int = 0
    """The largest number of parameters that an optimiser had at once."""
    stored_parameters: list[int] = field(default_factory=list)
    """Numbers kept after each task: adapters, heads, statistics."""
    memory_bytes: list[int] = field(default_factory=list)
    """The size of the exemplars in bytes, after each task."""
    train_flops: list[float] = field(default_factory=list)
    """FLOPs of training each task, estimated from the first batch of each kind of work."""
    one_pass_flops: list[float] = field(default_factory=list)
    """FLOPs of one forward and one backward of the frozen backbone over each task's rows."""
    inference_flops: float = 0.0
    """FLOPs of the last prediction of one row."""
    inference_passes: float = 0.0
    """Forwards of the backbone in the last prediction of one row."""

    flops_per_row: dict[str, float] = field(default_factory=dict)
    """FLOPs per row of each kind of work, from its first batch."""

    def spend(self, kind: str, num_rows: int) -> None:
        """Add the operations of work on `num_rows` rows to the task's."""
        self.train_flops[-1] += self.flops_per_row[kind] * num_rows

    def metrics(self) -> dict[str, float]:
        """The last numbers, by name."""
        before = self.stored_parameters[-2] if len(self.stored_parameters) > 1 else 0
        return {
            "cost/trainable_parameters": float(self.trained_parameters),
            "cost/stored_parameters": float(self.stored_parameters[-1]),
            "cost/added_parameters": float(self.stored_parameters[-1] - before),
            "cost/memory_bytes": float(self.memory_bytes[-1]),
            "cost/peak_memory_bytes": peak_memory_bytes(),
            "cost/train_flops": sum(self.train_flops),
            "cost/inference_flops": self.inference_flops,
            "cost/inference_passes": self.inference_passes,
            "cost/train_seconds": self.train_seconds,
            "cost/evaluation_seconds": self.evaluation_seconds,
        }

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Costs":
        """What `state_dict` gave."""
        copied: dict[str, Any] = {
            name: copy(value) if isinstance(value, list | dict) else value
            for name, value in state.items()
        }
        return cls(**copied)


def peak_memory_bytes() -> float:
    """The peak memory of the process: of the GPU where it uses one, else of the host. Backbone,
    stream and other trials on the same host are in it."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return float(torch.cuda.max_memory_allocated())
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
