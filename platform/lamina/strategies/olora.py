"""O-LoRA (Wang et al., 2023): a new LoRA for each task, in a subspace orthogonal to those of the
earlier ones.

Trained: the current task's LoRA and the head. Remembered: the earlier LoRAs, frozen and summed
(kept as one, their ranks stacked); no task is needed at test. Differs from the paper: its
text-to-text model has no head, so here the cross-entropy sees the task's own classes only and the
rows of old classes stay as they were. The penalty is the authors' code's sum of |A_i A_t^T|, the
paper writes squares; `scale: paper` takes it as it is, and its weight then means another thing for
every rank, width and number of modules. By default each module's sum is a share of the largest
possible, and costs that share of the loss. That default weight is nearly as strong as the authors'
0.5 would be on MiniLM at rank 8, some forty times the cross-entropy in the gradient of A: under
AdamW A follows the penalty alone, and B learns. Where answers are tokens the setting is the
authors': 0.5 on the paper's scale (their scripts of orders 1 to 3, T5-large and LLaMA-7B, with rank
8, alpha 32 and a rate of 1e-3); so strong a penalty may hold the LoRA near zero, as its users
report.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lamina.adapters.kinds.lora import modules_of
from lamina.adapters.model import AdaptedModel
from lamina.adapters.succession import PAST, current, succeed
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy, orthogonality, relative_penalty
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy

DEFAULTS = {"loss": 50.0, "paper": 0.5}
"""lambda_1 on either scale."""


@dataclass
class OLoRA(Strategy):
    """Cross-entropy over the task's classes, with penalties on overlap with the past and
    on size.
    """

    orthogonality: float | None = None
    """lambda_1, the weight of the overlap of the rows of A with those of earlier tasks. Default: 50
    on the scale of the loss (random rows have a share of 0.04 in 384 dimensions), and the authors'
    0.5 on the paper's."""
    scale: Literal["loss", "paper"] | None = None
    """What a weight of 1 means: an overlap of parallel rows costs as much as the loss (`loss`: a
    mean over modules), or the sum of |A_i A_t^T| is added as it is (`paper`). Default: `paper`
    where answers are tokens, else `loss`."""
    shrinkage: float = 0.0
    """lambda_2, the weight of the sum of the norms of the current task's tensors."""

    family = "lora"
    paper = "Orthogonal Subspace Learning for Language Model Continual Learning"
    year = 2023
    answers = ("classes", "tokens")
    adapters = ("lora",)
    from_second_task = ("orthogonality", "scale")
    grows = True

    def __post_init__(self) -> None:
        check_fields("strategy", self, not_negative=["orthogonality", "shrinkage"])

    def setup(self, model: AdaptedModel) -> None:
        """Nothing yet: every task brings its own."""

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Stack the last task's LoRA on the past, freeze it, and attach a new one."""
        succeed(model, task.index)

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(task's classes) + lambda_1 overlap + lambda_2 sum ||theta_t||_2. The overlap is
        sum_l sum |A_past A_t^T|, or by default CE times the mean over l of that sum as a share of
        sum_ij ||a_i|| ||a_j||."""
        assert batch.task is not None
        task_loss = cross_entropy(model(batch.inputs).logits, batch.labels, batch.task.classes)
        loss, new = task_loss, current(model).tensors
        if self.shrinkage > 0:
            norms = torch.stack([tensor.norm() for tensor in new.values()])
            loss = loss + self.shrinkage * norms.sum()
        if PAST not in model.adapters:
            return StepOutput(loss)
        past = model.adapters[PAST].tensors
        names = [f"{module}.lora_A.weight" for module in modules_of(new)]
        overlaps = [orthogonality(past[name], new[name]) for name in names]
        penalty = total = torch.stack(overlaps).sum()
        scale = self.scale or ("loss" if batch.task.classes else "paper")
        weight = DEFAULTS[scale] if self.orthogonality is None else self.orthogonality
        if scale == "loss":
            shares = [
                each / largest_overlap(past[name], new[name].detach())
                for name, each in zip(names, overlaps, strict=True)
            ]
            penalty = relative_penalty(shares, task_loss)
        return StepOutput(loss + weight * penalty, {"overlap": total.detach()})


def largest_overlap(first: Tensor, second: Tensor) -> Tensor:
    """What `orthogonality` would be if all rows were parallel: sum_ij ||a_i|| ||a_j||."""
    return first.norm(dim=1).sum() * second.norm(dim=1).sum()
