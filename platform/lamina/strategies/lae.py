"""LAE (Gao et al., 2023): learning, accumulation, ensemble: a fast online adapter, and a slow
offline one that averages it.

Trained: one online adapter, shared by all tasks, and the head. From the second task on the adapter
stays frozen at first, while the head warms up. Remembered: the offline adapter, a moving average of
the online one that starts as its copy when the second task begins. At test each class gets the
larger of the two experts' probabilities. Differs from the authors' code: an adapter's speed is not
calibrated (kinds keep their own scale), and every layer of the job's adapter is adapted, not the
first five.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.adapters import kind_names
from lamina.adapters.model import MAIN, AdaptedModel
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.registry import InputError
from lamina.strategies.base import Strategy

OFFLINE = "offline"


@dataclass
class LAE(Strategy):
    """Cross-entropy over the task's classes for the online adapter; the offline one follows."""

    momentum: float = 0.9999
    """alpha, what the offline adapter keeps of itself at each step."""
    freeze: float = 0.6
    """Share of a later task's epochs in which only the head is trained (3 of 5, 30 of 50)."""

    family = "adapter"
    paper = "A Unified Continual Learning Framework with General Parameter-Efficient Tuning"
    year = 2023
    adapters = tuple(kind_names())

    def __post_init__(self) -> None:
        if not 0 <= self.momentum <= 1:
            raise InputError(f"strategy.momentum: {self.momentum} is not in [0, 1]")
        if not 0 <= self.freeze < 1:
            raise InputError(f"strategy.freeze: {self.freeze} is not in [0, 1)")

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Accumulation starts from what the first task taught."""
        if task.index == 1:
            model.copy(MAIN, OFFLINE)

    def phases(self, task: Task) -> tuple[float, ...]:
        """Head alone, then head and online adapter; the first task has nothing to spare."""
        return (1.0,) if task.index == 0 or self.freeze == 0 else (self.freeze, 1 - self.freeze)

    def begin_phase(self, model: AdaptedModel, task: Task, phase: int) -> None:
        """Hold the online adapter in the first of two phases."""
        is_last = phase == len(self.phases(task)) - 1
        (model.unfreeze if is_last else model.freeze)(MAIN)

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """Learning: L = CE(online, task's classes)."""
        assert batch.task is not None
        logits = model(batch.inputs).logits
        return StepOutput(cross_entropy(logits, batch.labels, classes=batch.task.classes))

    @torch.no_grad()
    def after_step(self, model: AdaptedModel, seen: Summary | None) -> None:
        """Accumulation: theta_off <- alpha theta_off + (1 - alpha) theta_on."""
        if OFFLINE in model.adapters:
            online = model.adapters[MAIN].tensors
            for name, tensor in model.adapters[OFFLINE].tensors.items():
                tensor.lerp_(online[name], 1 - self.momentum)

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """Ensemble: the class-wise maximum of both experts' softmax."""
        online = model(inputs).logits.softmax(dim=1)
        if OFFLINE not in model.adapters:
            return online
        return torch.maximum(online, model(inputs, adapters=[OFFLINE]).logits.softmax(dim=1))
