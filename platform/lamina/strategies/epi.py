"""EPI (Wang et al., 2023): efficient parameter isolation, a private adapter for each task and
Mahalanobis distance to tell the task of an input.

Trained: an adapter of the job's kind (`prefix` is the paper's) and a head over the task's classes,
new with each task. Remembered: all of them, frozen; the mean of each class's features on the frozen
backbone, per task, and one covariance: the mean over tasks of the mean over a task's classes. All
of it comes from sums. Differs from the paper: any adapter kind can be what is isolated.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters.isolation import IsolatedModules
from lamina.adapters.model import AdaptedModel
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy, places
from lamina.memory.gaussian import Gaussians, moments
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy

MODULES = IsolatedModules(head="task_{}_head")


@dataclass
class EPI(Strategy):
    """Plain cross-entropy on each task alone: nothing is shared, so nothing is forgotten."""

    family = "prompt"
    paper = "Rehearsal-free Continual Language Learning via Efficient Parameter Isolation"
    year = 2023
    answers = ("classes", "tokens")
    routes = True
    grows = True

    def setup(self, model: AdaptedModel) -> None:
        """Nothing to train yet: every task brings its own."""
        nothing = torch.zeros(model.backbone.dim, model.backbone.dim, device=model.backbone.device)
        self.state.update(classes=[], means=[], covariances=nothing, precision=nothing)

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Freeze what is there; a new adapter and a new head."""
        MODULES.attach(model, task)
        self.state["classes"].append(list(task.classes))

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE over the task's classes."""
        assert batch.task is not None
        logits = MODULES.logits(model, batch.inputs, batch.task.index, self.state["classes"])
        return StepOutput(cross_entropy(logits, batch.labels))

    def review(self, model: AdaptedModel, batch: Batch) -> Summary:
        """Moments of the frozen features of each of the task's classes; where answers are tokens,
        of all that is asked in it as one."""
        classes = self.state["classes"][-1]
        number, own_labels = 1, torch.zeros_like(batch.ids, device=batch.labels.device)
        if classes:
            number, own_labels = len(classes), places(batch.labels, classes)
        return Summary(moments(model.frozen_features(batch.inputs), own_labels, number))

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Keep mu_c of each class; Sigma is the mean of all tasks' mean class covariance. A task
        of which no class was shown (sums behind noise may say so) is never routed to."""
        assert review is not None
        gaussians = Gaussians.of(review.sums)
        shown = gaussians.count > 0
        means = self.state["means"]
        means.append(gaussians.mean[shown])
        if shown.any():
            total = self.state["covariances"] + gaussians.covariance[shown].mean(dim=0)
            self.state["covariances"] = total
            self.state["precision"] = pseudo_inverse(total / sum(len(mean) > 0 for mean in means))

    def route(self, model: AdaptedModel, inputs: Mapping[str, Tensor]) -> Tensor:
        """argmin_t min_c (q - mu_c)^T Sigma^-1 (q - mu_c)."""
        query = model.frozen_features(inputs)[:, None]
        distances = []
        for mean in self.state["means"]:
            offset = query - mean
            distance = ((offset @ self.state["precision"]) * offset).sum(dim=2)
            distances.append(F.pad(distance, (0, 1), value=torch.inf).amin(dim=1))
        return torch.stack(distances, dim=1).argmin(dim=1)

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """The answer of the task, or of the task of the nearest class."""
        classes = self.state["classes"]
        if task is not None and task.index < len(self.state["means"]):
            return MODULES.logits(model, inputs, task.index, classes)
        return MODULES.answer(model, inputs, self.route(model, inputs), classes)


def pseudo_inverse(covariance: Tensor) -> Tensor:
    """Moore-Penrose inverse of a covariance [d, d] of float32 features: directions within their
    rounding do not count."""
    tolerance = covariance.shape[0] * torch.finfo(torch.float32).eps
    inverse = torch.linalg.pinv(covariance.double(), rtol=tolerance, hermitian=True)
    return inverse.to(covariance.dtype)
