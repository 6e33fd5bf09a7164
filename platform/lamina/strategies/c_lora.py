"""C-LoRA (Smith et al., 2024): a new LoRA for each task, which pays for changing weights that
earlier tasks changed.

Trained: the current task's LoRA and the head. Remembered: the earlier LoRAs, frozen and summed; no
task is needed at test. The sum of earlier updates is multiplied out once per task; a step only
multiplies out the new one, rank / tokens of what the module itself computes. Differs from the
paper: it customises a diffusion model, and its image classifier adapts keys and values of a vision
transformer; here the job's LoRA says which modules, and the cross-entropy sees the task's own
classes only. The paper's weight of 1e8 is for its tiny updates; what it means depends on learning
rate, rank and steps, and here it would be some thirty times the cross-entropy's gradient. By
default a module's penalty is told in units of what was changed before, and in those of the loss.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lamina.adapters.kinds.lora import modules_of, product
from lamina.adapters.model import AdaptedModel
from lamina.adapters.succession import PAST, current, succeed
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy, relative_penalty
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy

TINY = 1e-30
"""Keeps a module that no task changed from being divided by zero."""


@dataclass
class CLoRA(Strategy):
    """Cross-entropy over the task's classes, and the self-regularisation of the update."""

    strength: float = 1.0
    """lambda, the weight of the penalty (1e8 in the paper, with `scale: paper`). 10 was better
    under AdamW. Under SGD both may diverge after tasks that changed little, where the penalty is
    steep; `scale: paper` is not."""
    scale: Literal["loss", "paper"] = "loss"
    """What a strength of 1 means: changing the same weights once more as far as before costs as
    much as the loss (`loss`: a mean over modules), or the squared products are added as they are
    (`paper`)."""

    family = "lora"
    paper = "Continual Diffusion: Continual Customization of Text-to-Image Diffusion with C-LoRA"
    year = 2024
    answers = ("classes", "tokens")
    adapters = ("lora",)
    from_second_task = ("strength", "scale")
    grows = True

    def __post_init__(self) -> None:
        check_fields("strategy", self, not_negative=["strength"])

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
        """L = CE(task's classes) + lambda sum_l ||C_l * (B_t A_t)||_2^2, C = |sum_{i<t} B_i A_i|;
        by default CE times the mean over l of ||C_l * (B_t A_t)||_2^2 / ||C_l * C_l||_2^2."""
        assert batch.task is not None
        loss = cross_entropy(model(batch.inputs).logits, batch.labels, batch.task.classes)
        if "changed" not in self.state:
            return StepOutput(loss)
        overlaps = self.overlaps(model)
        penalty = total = torch.stack(list(overlaps.values())).sum()
        if self.scale == "loss":
            changed = self.state["changed"]
            shares = [
                overlap / changed[module].pow(4).sum().clamp_min(TINY)
                for module, overlap in overlaps.items()
            ]
            penalty = relative_penalty(shares, loss)
        return StepOutput(loss + self.strength * penalty, {"overlap": total.detach()})

    def overlaps(self, model: AdaptedModel) -> dict[str, Tensor]:
        """Per module, the sum over its weights of the squared product of what was changed and what
        changes."""
        new = current(model).tensors
        return {
            module: (changed * product(new, module)).square().sum()
            for module, changed in self.state["changed"].items()
        }

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Drop the multiplied-out sum: the stacked LoRAs hold it in less."""
        self.state.pop("changed", None)
