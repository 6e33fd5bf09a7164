"""C-ADA (Gao et al., 2024): a continual adapter layer whose inner width grows with each task, old
slices frozen, new ones orthogonal to them.

Trained: the current task's slices of the down- and up-projections, the head, and on the first task
a scaling and shifting of each MLP's output, which carries the pre-trained features over to the
stream. Remembered: all slices; one pass uses them all, so no task is told or guessed. A slice is a
bottleneck of the job's width: ReLU acts unit by unit, so slices that add up are one wider layer.
Differs from the paper: there is no public code; where scaling and shifting sit, that they stay
after the first task, and the norm of the orthogonal loss (Frobenius) are our reading of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.adapters.model import AdaptedModel
from lamina.backbones.overlay import Overlay
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy

SHIFT = "shift"


@dataclass
class CADA(Strategy):
    """Cross-entropy over the task's classes, and a penalty on overlap of the down-projections."""

    orthogonality: float = 1.0
    """lambda, the weight of the orthogonal loss."""

    family = "adapter"
    paper = (
        "Beyond Prompt Learning: Continual Adapter for Efficient Rehearsal-Free Continual Learning"
    )
    year = 2024
    answers = ("classes", "tokens")
    adapters = ("bottleneck",)
    from_second_task = ("orthogonality",)
    grows = True

    def __post_init__(self) -> None:
        check_fields("strategy", self, not_negative=["orthogonality"])

    def setup(self, model: AdaptedModel) -> None:
        """gamma = 1 and beta = 0 at every layer: at first nothing is moved."""
        dim = model.backbone.dim
        layers = range(model.backbone.architecture.num_layers)
        scale = {f"{layer}.scale": torch.ones(dim) for layer in layers}
        shift = {f"{layer}.shift": torch.zeros(dim) for layer in layers}
        model.add_tensors(SHIFT, {**scale, **shift})

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Freeze everything so far, and extend each layer by a slice."""
        if task.index > 0:
            model.freeze(SHIFT, *model.active)
        model.add(f"slice_{task.index}")

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(task's classes) + lambda sum_l ||W_down_old W_down_new^T||."""
        assert batch.task is not None
        logits = self.predict(model, batch.inputs, batch.task)
        loss = cross_entropy(logits, batch.labels, classes=batch.task.classes)
        overlap = self.overlap(model)
        if overlap is None:
            return StepOutput(loss)
        return StepOutput(loss + self.orthogonality * overlap, {"overlap": overlap.detach()})

    def overlap(self, model: AdaptedModel) -> Tensor | None:
        """Sum over layers of the Frobenius norm of W_down_old W_down_new^T; None for the first
        task."""
        *past, current = [model.adapters[name].tensors for name in model.active]
        if not past:
            return None
        names = [name for name in current if name.endswith("down.weight")]
        norms = [
            torch.linalg.matrix_norm(torch.cat([each[name] for each in past]) @ current[name].T)
            for name in names
        ]
        return torch.stack(norms).sum()

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """Logits with every layer scaled and shifted, and all slices added."""
        tensors = model.adapters[SHIFT].tensors
        moved = Overlay(
            patches={
                site: [ScaleAndShift(tensors[f"{layer}.scale"], tensors[f"{layer}.shift"])]
                for layer, site in enumerate(model.backbone.architecture.mlps)
            }
        )
        return model.under(inputs, moved | model.overlay()).logits


@dataclass(frozen=True)
class ScaleAndShift:
    """gamma * y + beta, feature by feature."""

    scale: Tensor
    """gamma [dim]."""
    shift: Tensor
    """beta [dim]."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.scale * y + self.shift).to(y.dtype)
