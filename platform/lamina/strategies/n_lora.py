"""N-LoRA (Yang et al., 2025): a new, sparse LoRA for each task, so that tasks rarely change the
same weight.

Trained: the current task's LoRA and the head. Remembered: the earlier LoRAs, frozen and summed; no
task is needed at test. Differs from the public code: there, the L1 norm is that of A B [rank,
rank], which exists only where a module is as wide as its input, and is not that of the update;
`product: inner` offers it, and its strength of 0.4 belongs to it. The default is the paper's norm
of the update B A [d_out, d_in], whose (d / rank)^2 times as many terms want a smaller strength.
Differs from the paper: its text-to-text model has no head, so here the cross-entropy sees the
task's own classes only.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lamina.adapters.base import Tensors
from lamina.adapters.kinds.lora import modules_of, product
from lamina.adapters.model import AdaptedModel
from lamina.adapters.succession import current, succeed
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.registry import InputError, only_where
from lamina.strategies.base import Strategy


@dataclass
class NLoRA(Strategy):
    """Cross-entropy over the task's classes, with the L1 norm of the task's update."""

    sparsity: float = 1e-4
    """lambda, the weight of the L1 norm."""
    product: Literal["update", "inner"] = "update"
    """Whose norm: of the `update` B A, or of the `inner` product A B as in the public code."""

    family = "lora"
    paper = "Is Parameter Collision Hindering Continual Learning in LLMs?"
    year = 2025
    matters_when = only_where(product="sparsity")
    adapters = ("lora",)
    grows = True

    def __post_init__(self) -> None:
        if self.sparsity < 0:
            raise InputError(f"strategy.sparsity: {self.sparsity} is negative")
        if self.product not in ("update", "inner"):
            raise InputError(
                f"strategy.product: {self.product!r} is not known (allowed: update, inner)"
            )

    def setup(self, model: AdaptedModel) -> None:
        """Nothing yet: every task brings its own."""

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Stack the last task's LoRA on the past, freeze it, and attach a new one."""
        new = succeed(model, task.index)
        if self.product == "inner":
            _check_square(new.tensors)

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(task's classes) + lambda sum_l ||B_t A_t||_1."""
        assert batch.task is not None
        loss = cross_entropy(model(batch.inputs).logits, batch.labels, batch.task.classes)
        new = current(model).tensors
        norms = torch.stack([self.norm(new, module) for module in modules_of(new)])
        size = norms.sum()
        return StepOutput(loss + self.sparsity * size, {"l1_norm": size.detach()})

    def norm(self, tensors: Tensors, module: str) -> Tensor:
        """The L1 norm of one module's product."""
        if self.product == "update":
            return product(tensors, module).abs().sum()
        inner = tensors[f"{module}.lora_A.weight"] @ tensors[f"{module}.lora_B.weight"]
        return inner.abs().sum()


def _check_square(tensors: Tensors) -> None:
    for module in modules_of(tensors):
        d_in = tensors[f"{module}.lora_A.weight"].shape[1]
        d_out = tensors[f"{module}.lora_B.weight"].shape[0]
        if d_in != d_out:
            raise InputError(
                f"strategy.product: 'inner' needs square modules, but {module} is {d_out} by {d_in}"
            )
