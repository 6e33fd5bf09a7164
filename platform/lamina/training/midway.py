"""Where a learner stands within a task: what it takes, beside its own state, to go on from the
middle of an epoch as if nothing had happened."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Midway:
    """A place in a task's epochs; the beginning of one, unless batches of it are done."""

    epoch: int = 0
    """From the task's beginning, over all phases."""
    dropout: torch.Generator = field(default_factory=torch.Generator)
    """What draws dropout's masks, in the task."""
    num_batches: int = 0
    """Of the epoch, that are done."""
    total: Tensor | None = None
    """The sum over its rows so far of their losses, float32 []; None: no row yet."""
    losses: list[Tensor] = field(default_factory=list)
    """Of each batch that is done."""
    stepper: Mapping[str, Any] | None = None
    """`Stepper.state_dict`, where the stepper is of this phase alone."""

    def plain(self) -> dict[str, Any]:
        """Tensors and plain values."""
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
        """What `plain` gave."""
        generator = torch.Generator()
        generator.set_state(plain["dropout"])
        losses = [] if plain["losses"] is None else list(plain["losses"])
        return cls(**{**plain, "dropout": generator, "losses": losses})
