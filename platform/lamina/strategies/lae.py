"""LAE (Gao et al., 2023): learning, accumulation, ensemble: a fast online adapter, and a slow
offline one that averages it.

Trained: one online adapter, shared by all tasks, and the head. From the second task on the adapter
stays frozen at first, while the head warms up. Remembered: the offline adapter, a moving average of
the online one that starts as its copy when the second task begins. At test each class gets the
larger of the two experts' probabilities. How far the average moves depends on how many steps a
task has: with the authors' 0.9999 a step it keeps 0.90 of itself over their some 1,040 steps, and
0.998 over 20 steps, which is no average of anything. So the decay is told for a whole task, and a
step's follows from the task's length. Differs from the authors' code besides: an adapter's speed is
not calibrated (kinds keep their own scale), and every layer of the job's adapter is adapted, not
the first five.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.adapters import kind_names
from lamina.adapters.model import MAIN, AdaptedModel
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy

OFFLINE = "offline"


@dataclass
class LAE(Strategy):
    """Cross-entropy over the task's classes for the online adapter; the offline one follows."""

    kept: float = 0.9
    """What the offline adapter keeps of itself over a task, however many steps that has. The rest
    is made of what the online one went through."""
    momentum: float | None = None
    """alpha, what it keeps at each step (0.9999 in the authors' code), in place of `kept`."""
    freeze: float = 0.6
    """Share of a later task's epochs in which only the head is trained (3 of 5, 30 of 50)."""

    family = "adapter"
    paper = "A Unified Continual Learning Framework with General Parameter-Efficient Tuning"
    year = 2023
    answers = ("classes", "tokens")
    adapters = tuple(kind_names())
    of_head = ("freeze",)

    def __post_init__(self) -> None:
        check_fields("strategy", self, share=["kept", "momentum"], share_below_1=["freeze"])

    def preview(self, model: AdaptedModel, batch: Batch) -> Summary:
        """How many rows the task has."""
        return Summary({"count": torch.tensor(float(len(batch)), device=model.backbone.device)})

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Accumulation starts from what the first task taught. How many steps a row takes is known
        from the tasks so far, and with it a step's share of this task."""
        assert preview is not None
        rows = float(preview["count"])
        if task.index == 0:
            self.state.update(rows=rows, steps=0)
            return
        if task.index == 1:
            model.copy(MAIN, OFFLINE)
        steps = max(1.0, rows * self.state["steps"] / self.state["rows"])
        self.state["decay"] = self.kept ** (1 / steps) if self.momentum is None else self.momentum
        self.state["rows"] += rows

    def phases(self, task: Task) -> tuple[float, ...]:
        """Head alone, then head and online adapter; the first task has nothing to spare, and where
        answers are tokens there is no head to train."""
        if task.index == 0 or self.freeze == 0 or not task.classes:
            return (1.0,)
        return (self.freeze, 1 - self.freeze)

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
        self.state["steps"] += 1
        if OFFLINE in model.adapters:
            online = model.adapters[MAIN].tensors
            for name, tensor in model.adapters[OFFLINE].tensors.items():
                tensor.lerp_(online[name], 1 - self.state["decay"])

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """Ensemble: the maximum of both experts' softmax, of each class or token."""
        online = model(inputs).logits.softmax(dim=-1)
        if OFFLINE not in model.adapters:
            return online
        return torch.maximum(online, model(inputs, adapters=[OFFLINE]).logits.softmax(dim=-1))
