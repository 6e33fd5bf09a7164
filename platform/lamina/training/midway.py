"""The state of a learner within a task: what it needs, besides its own state, to go on from the
middle of an epoch as if it had not stopped."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Midway:
    """A point within a task's epochs. Without finished batches, it is the beginning of an epoch."""

    epoch: int = 0
    """The epoch, counted from the task's beginning over all phases."""
    dropout: torch.Generator = field(default_factory=torch.Generator)
    """The generator of the task's dropout masks."""
    num_batches: int = 0
    """Batches of the epoch that are done."""
    total: Tensor | None = None
    """The sum of the losses of the epoch's rows so far, float32 []; None: no row yet."""
    losses: list[Tensor] = field(default_factory=list)
    """The loss of each batch that is done."""
    stepper: Mapping[str, Any] | None = None
    """`Stepper.state_dict`, where the stepper is of this phase alone."""

    def plain(self) -> dict[str, Any]:
        """The fields as tensors and plain values."""
        return {
            "epoch": self.epoch,
            "dropout": self.dropout.get_state(),
            "num_batches": self.num_batches,
            "total": self.total,
            "losses": torch.stack(self.losses) if self.losses else None,
            "stepper": self.stepper,
        }

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Midway":
        """The point that `plain` gave."""
        generator = torch.Generator()
        generator.set_state(plain["dropout"])
        losses = [] if plain["losses"] is None else list(plain["losses"])
        return cls(**{**plain, "dropout": generator, "losses": losses})
