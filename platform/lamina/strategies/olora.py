"""O-LoRA (Wang et al., 2023): a new LoRA for each task, in a subspace orthogonal to those of the
earlier ones.

Trained: the current task's LoRA and the head. Remembered: the earlier LoRAs, frozen and summed
(kept as one, their ranks stacked); no task is needed at test. Differs from the paper: its
text-to-text model has no head, so here the cross-entropy sees the task's own classes only and the
rows of old classes stay as they were. The penalty is the authors' code's sum of |A_i A_t^T|; the
paper writes squares.
"""

from dataclasses import dataclass

import torch

from lamina.adapters.kinds.lora import modules_of
from lamina.adapters.model import AdaptedModel
from lamina.adapters.succession import PAST, current, succeed
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy, orthogonality
from lamina.memory.memory import Replay
from lamina.registry import InputError
from lamina.strategies.base import Strategy


@dataclass
class OLoRA(Strategy):
    """Cross-entropy over the task's classes, with penalties on overlap with the past and
    on size.
    """

    orthogonality: float = 0.5
    """lambda_1, the weight of the overlap of the rows of A with those of earlier tasks."""
    shrinkage: float = 0.0
    """lambda_2, the weight of the sum of the norms of the current task's tensors."""

    family = "lora"
    paper = "Orthogonal Subspace Learning for Language Model Continual Learning"
    year = 2023
    adapters = ("lora",)
    from_second_task = ("orthogonality",)
    grows = True

    def __post_init__(self) -> None:
        for name in ("orthogonality", "shrinkage"):
            if getattr(self, name) < 0:
                raise InputError(f"strategy.{name}: {getattr(self, name)} is negative")

    def setup(self, model: AdaptedModel) -> None:
        """Nothing yet: every task brings its own."""

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Stack the last task's LoRA on the past, freeze it, and attach a new one."""
        succeed(model, task.index)

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(task's classes) + lambda_1 sum_l sum |A_past A_t^T| + lambda_2 sum
        ||theta_t||_2.
        """
        assert batch.task is not None
        loss = cross_entropy(model(batch.inputs).logits, batch.labels, batch.task.classes)
        new = current(model).tensors
        if self.shrinkage > 0:
            norms = torch.stack([tensor.norm() for tensor in new.values()])
            loss = loss + self.shrinkage * norms.sum()
        if PAST not in model.adapters:
            return StepOutput(loss)
        past = model.adapters[PAST].tensors
        overlaps = [
            orthogonality(past[f"{module}.lora_A.weight"], new[f"{module}.lora_A.weight"])
            for module in modules_of(new)
        ]
        overlap = torch.stack(overlaps).sum()
        return StepOutput(loss + self.orthogonality * overlap, {"overlap": overlap.detach()})
