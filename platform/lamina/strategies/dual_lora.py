"""DualLoRA (Chen et al., 2024): beside each module an orthogonal LoRA that leaves old inputs alone,
and a residual LoRA in the task's own directions that a dynamic memory turns down elsewhere.

Trained: the task's orthogonal LoRA, B of its residual LoRA, and the head. A of the residual LoRA:
the task's leading input directions Psi_t that no earlier task took. Remembered: both LoRAs of every
task, frozen, and per module a basis of the input directions taken so far. Written from summaries,
as the paper's text could not be had, so these are ours: the memory of task t is the share of a
token's energy in span(Psi_t), relative to the task's own mean share, at most 1, in training as at
test; A is projected after each step too, as an optimiser that scales elements leaves the subspace;
bases are of inputs under the orthogonal LoRAs. Left out: a later version's task prediction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters.base import Tensors
from lamina.adapters.kinds.lora import concatenate, downs, freeze_downs
from lamina.adapters.model import AdaptedModel
from lamina.adapters.succession import current, input_covariances, lora_of, succeed
from lamina.backbones.overlay import Overlay, Site
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.memory.subspace import left_directions, recalled
from lamina.strategies.base import Strategy

RESIDUAL = "residual_"


@dataclass
class DualLoRA(Strategy):
    """Cross-entropy over the task's classes, of a stable and a plastic LoRA."""

    threshold: float = 0.95
    """epsilon, the share of energy of a task's inputs that its basis must hold."""

    family = "lora"
    paper = "Dual Low-Rank Adaptation for Continual Learning with Pre-Trained Models"
    year = 2024
    answers = ("classes", "tokens")
    adapters = ("lora",)
    grows = True

    def __post_init__(self) -> None:
        check_fields("strategy", self, share=["threshold"])

    def setup(self, model: AdaptedModel) -> None:
        """Nothing yet: every task brings its own."""
        self.state.update(subspaces={}, shares={})

    def preview(self, model: AdaptedModel, batch: Batch) -> Summary:
        """Per module H, the sum of x x^T over its inputs x."""
        return input_covariances(model, batch)

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Freeze both LoRAs of the last task and attach new ones, in directions that are free."""
        assert preview is not None
        model.freeze(*residuals(model))
        tensors = succeed(model, task.index).tensors
        residual = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
        for module, a in downs(residual).items():
            covariance = preview[module].double()
            free = recalled(self.state["subspaces"], module, covariance).outside(covariance)
            psi = left_directions(free)[0][:, : len(a)]
            a[: psi.shape[1]] = psi.T.to(a.dtype)
            share = (psi * (covariance @ psi)).sum() / covariance.trace()
            self.state["shares"].setdefault(module, []).append(float(share))
        freeze_downs(model.add_tensors(f"{RESIDUAL}{task.index}", residual).tensors)
        self.after_step(model, None)

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(task's classes)."""
        assert batch.task is not None
        logits = self.predict(model, batch.inputs, None)
        return StepOutput(cross_entropy(logits, batch.labels, batch.task.classes))

    def adjust(
        self, model: AdaptedModel, gradients: Tensors, references: Sequence[Tensors]
    ) -> Tensors:
        """Of A of the orthogonal LoRA, the part outside the directions of earlier tasks."""
        projected = dict(gradients)
        for module in (subspaces := self.state["subspaces"]):
            name = f"{model.active[-1]}.{module}.lora_A.weight"
            gradient = gradients[name].T
            projected[name] = recalled(subspaces, module, gradient).outside(gradient).T
        return projected

    @torch.no_grad()
    def after_step(self, model: AdaptedModel, seen: Summary | None) -> None:
        """Keep rows of A of the orthogonal LoRA where old inputs have no part."""
        for module, a in downs(current(model).tensors).items():
            a.copy_(recalled(self.state["subspaces"], module, a.T).outside(a.T).T)

    def review(self, model: AdaptedModel, batch: Batch) -> Summary:
        """H again, under what was learned."""
        return input_covariances(model, batch)

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Add to each module's basis what the task's inputs bring."""
        assert review is not None
        for module, covariance in review.sums.items():
            taken = recalled(self.state["subspaces"], module, covariance)
            grown = taken.grown(covariance.double(), self.threshold)
            self.state["subspaces"][module] = grown.state()

    def predict(self, model: AdaptedModel, inputs: Tensors, task: Task | None) -> Tensor:
        """Logits under all orthogonal LoRAs and the residual LoRAs as the memory weighs them."""
        return model.under(inputs, model.overlay() | self.residual(model)).logits

    def residual(self, model: AdaptedModel) -> Overlay:
        """The residual LoRAs of all tasks."""
        tensors = reduce(concatenate, [model.adapters[name].tensors for name in residuals(model)])
        scale = lora_of(model).alpha / lora_of(model).rank
        patches = {}
        for module, psi in downs(tensors).items():
            b = scale * tensors[f"{module}.lora_B.weight"]
            shares = torch.tensor(self.state["shares"][module], device=b.device)
            patches[Site(module, module)] = [ResidualPatch(psi, b, shares)]
        return Overlay(patches=patches)


def residuals(model: AdaptedModel) -> list[str]:
    """The names of the residual LoRAs, in the order of their tasks."""
    return [name for name in model.adapters if name.startswith(RESIDUAL)]


@dataclass(frozen=True)
class ResidualPatch:
    """y + sum_t m_t(x) B_t Psi_t x with the memory m_t(x) = min(1, |Psi_t x|^2 / |x|^2 / share_t).

    Psi of all tasks [T * rank, d_in], B [d_out, T * rank], and [T] mean shares.
    """

    psi: Tensor
    b: Tensor
    shares: Tensor

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        x = x.to(self.psi.dtype)
        read = F.linear(x, self.psi).unflatten(-1, (len(self.shares), -1))
        energy = read.square().sum(dim=-1) / x.square().sum(dim=-1, keepdim=True).clamp_min(1e-12)
        memory = (energy / self.shares.clamp_min(1e-12)).clamp_max(1.0)
        update = F.linear((memory[..., None] * read).flatten(-2), self.b)
        return y + update.to(y.dtype)
