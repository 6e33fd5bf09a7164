"""RanPAC (McDonnell et al., 2023): ridge regression on random projections of the features, solved
from sums.

Trained: the job's adapter on the first task only, with a throw-away linear head (phase 1; without
an adapter it is skipped), then frozen. Remembered: Gram matrix [M, M] and class sums [M, classes]
of the projected features, which do not depend on the order of tasks. Differs from the authors'
code: the ridge is chosen on every fifth row of all tasks so far instead of on the current task's;
the validation error comes from the same sums, so it needs no second pass and adds up over workers
and clients. The head of phase 1 is linear, there a cosine classifier with a learned scale (0.923
against 0.913 on the assistant stream). The code's bottlenecks read a layer's tokens before its
second norm and drop out 0.1 (`adapter.before_norm: true`, `dropout: 0.1`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.adapters.model import MAIN, AdaptedModel
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task, generator_of
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.ridge import best_ridge, plus_columns, ridge_sums, solution_of
from lamina.strategies.base import Strategy


@dataclass
class RanPAC(Strategy):
    """h = ReLU(f(x) W) with W fixed at random; logits h W_o with W_o = (G + ridge I)^-1 Q."""

    projection: int = 10_000
    """M, width of the random projection."""

    family = "prototype"
    paper = "RanPAC: Random Projections and Pre-trained Models for Continual Learning"
    year = 2023
    classes_only = "it solves for the head of classes, by ridge regression"
    trained_tasks = "first"

    def __post_init__(self) -> None:
        check_fields("strategy", self, positive=["projection"])

    def setup(self, model: AdaptedModel) -> None:
        """The job's adapter, and the random projection W ~ N(0, 1) [dim, M]."""
        model.add()
        generator = generator_of(model.seed, "ranpac")
        weight = torch.randn(model.backbone.dim, self.projection, generator=generator)
        self.state["projection"] = weight.to(model.backbone.device)
        self.state["sums"] = {}

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """The adapter has learned the first task: now it stays."""
        if task.index == 1 and MAIN in model.adapters:
            model.freeze(MAIN)

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """Phase 1, first task: L = CE(f(x), y)."""
        return StepOutput(cross_entropy(model(batch.inputs).logits, batch.labels))

    def project(self, model: AdaptedModel, inputs: Mapping[str, Tensor]) -> Tensor:
        """h = ReLU(f(x) W), [N, M]."""
        return torch.relu(model(inputs).features @ self.state["projection"])

    def review(self, model: AdaptedModel, batch: Batch) -> Summary:
        """G = H^T H and Q = H^T Y, of the rows to fit and of the rows held out."""
        projected = self.project(model, batch.inputs)
        return Summary(ridge_sums(projected, batch.labels, batch.ids, model.num_classes()))

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Add the sums to those of the past, choose the ridge on the held-out rows, solve on all
        rows."""
        assert review is not None
        sums = plus_columns(review.sums, self.state["sums"])
        ridge = best_ridge(sums)
        self.state.update(sums=sums, ridge=ridge, solution=solution_of(sums, ridge))

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """h W_o."""
        logits: Tensor = self.project(model, inputs) @ self.state["solution"]
        return logits
