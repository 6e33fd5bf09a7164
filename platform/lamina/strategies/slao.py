"""SLAO (Qiao and Mahdavi, 2025): merge before forget, one LoRA learns task after task and a second
one, which answers, is merged with it after each.

Trained: one LoRA, and the head's rows of the task's classes. A task starts with an orthonormal
basis of what the last task's A reads, and with B as it was. Remembered: the LoRA as it goes on, and
the merged one: two, however many tasks there are. The merged A is the latest; the merged B moves
towards the task's by 1 / sqrt(i) at the i-th task. Written from the abstract and from what others
tell of the paper's algorithm; differs from it: its language model has no head.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.adapters.base import Tensors
from lamina.adapters.kinds.lora import downs
from lamina.adapters.model import MAIN, AdaptedModel
from lamina.adapters.task_vectors import MERGED, answer_with
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy


@dataclass
class SLAO(Strategy):
    """Cross-entropy over the task's classes, of the LoRA that goes on; the merged one answers."""

    power: float = 0.5
    """p, the i-th task counts i^-p in the merge: 1/2 in the paper, 1 is the mean of all B, and 0
    keeps the last."""

    family = "merging"
    paper = "Merge before Forget: A Single LoRA Continual Learning via Continual Merging"
    year = 2025
    answers = ("classes", "tokens")
    adapters = ("lora",)
    from_second_task = ("power",)

    def __post_init__(self) -> None:
        check_fields("strategy", self, not_negative=["power"])

    @torch.no_grad()
    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """A_t starts at an orthonormal basis of the rows of A_{t-1}, B_t at B_{t-1}."""
        model.active = [MAIN]
        if task.index > 0:
            for a in downs(model.adapters[MAIN].tensors).values():
                a.copy_(orthonormal_rows(a))

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(task's classes)."""
        assert batch.task is not None
        logits = model(batch.inputs).logits
        return StepOutput(cross_entropy(logits, batch.labels, batch.task.classes))

    @torch.no_grad()
    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """A <- A_t, B <- B + i^-p (B_t - B) with i tasks so far, and answer with it."""
        trained = model.adapters[MAIN]
        past = model.adapters.get(MERGED, trained).tensors
        merged = moved(past, trained.tensors, (task.index + 1) ** -self.power)
        answer_with(model, trained.kind, merged)


def orthonormal_rows(a: Tensor) -> Tensor:
    """Q^T of A^T = Q R with a positive diagonal of R: as A [rank, d], with orthonormal rows that
    span the same."""
    q, r = torch.linalg.qr(a.T)
    return (q * r.diagonal().sign()).T


def moved(merged: Tensors, learned: Tensors, share: float) -> dict[str, Tensor]:
    """The learned A, and B by a share of the way from the merged to the learned."""
    return {
        name: learned[name].clone() if ".lora_A." in name else tensor.lerp(learned[name], share)
        for name, tensor in merged.items()
    }
