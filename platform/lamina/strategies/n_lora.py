"""N-LoRA (Yang et al., 2025): a new, sparse LoRA for each task, so that tasks rarely change the
same weight.

Trained: the current task's LoRA and the head. Remembered: the earlier LoRAs, frozen and summed; no
task is needed at test. Differs from the public code: there, the L1 norm is that of A B [rank,
rank], which exists only where a module is as wide as its input, and is not that of the update;
`product: inner` offers it, and its strength of 0.4 belongs to it, with `scale: paper`. The default
is the paper's norm of the update B A [d_out, d_in], told by default as a mean over entries and
modules and in units of the loss, so that its weight does not depend on modules or loss, and less on
width: a narrow model's entries are larger and want a smaller one (here 96 and 384 took 1000).
Differs from the paper: its text-to-text model has no head, so here the cross-entropy sees the
task's own classes only. Where answers are tokens the default is the same: the public code's setting
(`product: inner, scale: paper, sparsity: 0.4`, for T5-large and LLaMA-7B) cannot be that of models
with grouped queries, whose value projections are not square.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lamina.adapters.base import Tensors
from lamina.adapters.kinds.lora import modules_of, product
from lamina.adapters.model import AdaptedModel
from lamina.adapters.succession import current, succeed
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy, relative_penalty
from lamina.memory.memory import Replay
from lamina.registry import InputError, only_where
from lamina.strategies.base import Strategy


@dataclass
class NLoRA(Strategy):
    """Cross-entropy over the task's classes, with the L1 norm of the task's update."""

    sparsity: float = 1000.0
    """lambda, the weight of the L1 norm (with `scale: paper`: 0.4 of the inner product in the
    public code; of the update's (d / rank)^2 times as many terms, some 1e-4)."""
    scale: Literal["loss", "paper"] = "loss"
    """What a weight of 1 means: a mean absolute entry of 1 costs as much as the loss (`loss`; so
    1000 charges an update of entries of 0.001 as much), or the L1 norms are added as they are
    (`paper`)."""
    product: Literal["update", "inner"] = "update"
    """Whose norm: of the `update` B A, or of the `inner` product A B as in the public code."""

    family = "lora"
    paper = "Is Parameter Collision Hindering Continual Learning in LLMs?"
    year = 2025
    answers = ("classes", "tokens")
    matters_when = only_where(product="sparsity")
    adapters = ("lora",)
    grows = True

    def __post_init__(self) -> None:
        check_fields("strategy", self, not_negative=["sparsity"])

    def setup(self, model: AdaptedModel) -> None:
        """Nothing yet: every task brings its own."""

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Stack the last task's LoRA on the past, freeze it, and attach a new one."""
        new = succeed(model, task.index)
        if self.product == "inner":
            _check_square(new.tensors)

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(task's classes) + lambda sum_l ||B_t A_t||_1; by default CE times the mean over l
        of the mean |entry| of B_t A_t."""
        assert batch.task is not None
        loss = cross_entropy(model(batch.inputs).logits, batch.labels, batch.task.classes)
        new = current(model).tensors
        entries = [self.product_of(new, module).abs() for module in modules_of(new)]
        penalty = size = torch.stack([each.sum() for each in entries]).sum()
        if self.scale == "loss":
            penalty = relative_penalty([each.mean() for each in entries], loss)
        return StepOutput(loss + self.sparsity * penalty, {"l1_norm": size.detach()})

    def product_of(self, tensors: Tensors, module: str) -> Tensor:
        """What is to be sparse in one module."""
        if self.product == "update":
            return product(tensors, module)
        return tensors[f"{module}.lora_A.weight"] @ tensors[f"{module}.lora_B.weight"]


def _check_square(tensors: Tensors) -> None:
    for module in modules_of(tensors):
        d_in = tensors[f"{module}.lora_A.weight"].shape[1]
        d_out = tensors[f"{module}.lora_B.weight"].shape[0]
        if d_in != d_out:
            raise InputError(
                f"strategy.product: 'inner' needs square modules, but {module} is {d_out} by {d_in}"
            )
