"""C-LoRA (Smith et al., 2024): a new LoRA for each task, which pays for changing weights that
earlier tasks changed.

Trained: the current task's LoRA and the head. Remembered: the earlier LoRAs, frozen and summed; no
task is needed at test. The sum of earlier updates is multiplied out once per task; a step only
multiplies out the new one, rank / tokens of what the module itself computes. Differs from the
paper: it customises a diffusion model, and its image classifier adapts keys and values of a vision
transformer; here the job's LoRA says which modules, and the cross-entropy sees the task's own
classes only.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.adapters.kinds.lora import modules_of, product
from lamina.adapters.model import AdaptedModel
from lamina.adapters.succession import PAST, current, succeed
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.registry import InputError
from lamina.strategies.base import Strategy


@dataclass
class CLoRA(Strategy):
    """Cross-entropy over the task's classes, and the self-regularisation of the update."""

    strength: float = 1e8
    """lambda, the weight of the penalty. Products of two small updates are tiny, so it is large."""

    family = "lora"
    paper = "Continual Diffusion: Continual Customization of Text-to-Image Diffusion with C-LoRA"
    year = 2024
    adapters = ("lora",)
    from_second_task = ("strength",)
    grows = True

    def __post_init__(self) -> None:
        if self.strength < 0:
            raise InputError(f"strategy.strength: {self.strength} is negative")

    def setup(self, model: AdaptedModel) -> None:
        """Nothing yet: every task brings its own."""

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Stack the last task's LoRA on the past, freeze it, and attach a new one."""
        succeed(model, task.index)
        if PAST in model.adapters:
            past = model.adapters[PAST].tensors
            with torch.no_grad():
                self.state["changed"] = {name: product(past, name) for name in modules_of(past)}

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(task's classes) + lambda sum_l || |sum_{i<t} B_i A_i| * (B_t A_t) ||_2^2."""
        assert batch.task is not None
        loss = cross_entropy(model(batch.inputs).logits, batch.labels, batch.task.classes)
        if "changed" not in self.state:
            return StepOutput(loss)
        overlap = self.overlap(model)
        return StepOutput(loss + self.strength * overlap, {"overlap": overlap.detach()})

    def overlap(self, model: AdaptedModel) -> Tensor:
        """Sum over modules and weights of the squared product of what was changed and what
        changes."""
        new = current(model).tensors
        parts = [
            (changed * product(new, module)).square().sum()
            for module, changed in self.state["changed"].items()
        ]
        return torch.stack(parts).sum()

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Drop the multiplied-out sum: the stacked LoRAs hold it in less."""
        self.state.pop("changed", None)
