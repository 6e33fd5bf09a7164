"""SLDA (Hayes and Kanan, 2020): streaming linear discriminant analysis on features of the frozen
backbone.

Trained: nothing. Remembered: one mean per class and one covariance [dim, dim] that all share.
Differs from the paper: the covariance is the exact one within classes, from sums, which depends on
no order and adds up over workers; the paper's running update measures each row from the mean as it
was by then. There is no base session, whose covariance the paper starts from.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.adapters.model import HEAD, AdaptedModel
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.memory.gaussian import class_means, class_sums, plus_classes
from lamina.memory.memory import Replay
from lamina.strategies.base import NO_ADAPTER, Strategy


@dataclass
class SLDA(Strategy):
    """Linear logits w_c f(x) + b_c from class means and a shared, shrunk covariance."""

    shrinkage: float = 1e-4
    """epsilon, share of the identity in the covariance; 1 leaves the nearest class mean."""

    family = "prototype"
    paper = "Lifelong Machine Learning with Deep Streaming Linear Discriminant Analysis"
    year = 2020
    classes_only = "it answers by the distance to each class's mean"
    scenarios = (*Strategy.scenarios, "task_free")
    adapters = (NO_ADAPTER,)
    trained_tasks = "none"

    def __post_init__(self) -> None:
        check_fields("strategy", self, share_above_0=["shrinkage"])

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """Without task boundaries the sums grow batch by batch. The loss is no loss: its gradient
        is zero."""
        nothing = 0.0 * model.adapters[HEAD].tensors["bias"].sum()
        return StepOutput(nothing, seen=self.review(model, batch))

    def after_step(self, model: AdaptedModel, seen: Summary | None) -> None:
        """Add the batch's sums to those of the past, and let go of the classifier made of those."""
        assert seen is not None
        self.state.pop("classifier", None)
        self.state.update(plus_classes(seen.sums, self.state))

    def review(self, model: AdaptedModel, batch: Batch) -> Summary:
        """Counts and sums of features per class, and X^T X [dim, dim] of all rows."""
        features = model.frozen_features(batch.inputs).double()
        sums = class_sums(features, batch.labels, model.num_classes())
        return Summary({**sums, "outer": features.T @ features})

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Add the task's sums to those of the past."""
        self.after_step(model, review)

    def covariance(self) -> Tensor:
        """Sigma = (X^T X - sum_c n_c mu_c mu_c^T) / n, float64 [dim, dim]."""
        means = class_means(self.state)
        count = self.state["count"]
        between = (means * count[:, None]).T @ means
        covariance: Tensor = (self.state["outer"] - between) / count.sum()
        return covariance

    def classifier(self) -> dict[str, Tensor]:
        """W = Lambda mu and b = -mu Lambda mu / 2, with Lambda = ((1 - epsilon) Sigma +
        epsilon I)^-1; minus infinity for a class never seen."""
        means = class_means(self.state)
        identity = torch.eye(means.shape[1], dtype=means.dtype, device=means.device)
        shrunk = (1 - self.shrinkage) * self.covariance() + self.shrinkage * identity
        weight = torch.linalg.solve(shrunk, means.T).contiguous()
        bias = -(means * weight.T).sum(dim=1) / 2
        return {"weight": weight, "bias": bias.masked_fill(self.state["count"] == 0, -torch.inf)}

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """W f(x) + b, solved once for as long as nothing new is seen."""
        if "classifier" not in self.state:
            self.state["classifier"] = self.classifier()
        weight = self.state["classifier"]["weight"]
        bias = self.state["classifier"]["bias"]
        return (model.frozen_features(inputs).double() @ weight + bias).float()
