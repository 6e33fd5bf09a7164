"""SSIAT (Tan et al., 2024): one adapter is tuned in every task without constraint; what that does
to the means of old classes is estimated, and the head is refitted on Gaussian features.

Trained: the job's adapter, shared by all tasks, and the rows of a cosine head. Remembered: mean and
covariance of the features of every class, the means moved along with the drift of the features.
Differs from the public code: there every weight of the drift gets 1e-5 more, and the means of
earlier tasks are scaled by 0.9 to 1 before they are sampled; the refit has a covariance with 1e-3
more on its diagonal (here 1e-4) and weight decay 5e-4 (here none); bottlenecks read a layer's
tokens before its second norm and drop out 0.1 (`adapter.before_norm: true`, `dropout: 0.1`). A
class that comes back pools its statistics.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters.model import HEAD, MAIN, AdaptedModel
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task, generator_of
from lamina.descent import descend
from lamina.losses import cross_entropy
from lamina.memory.gaussian import Gaussians, moments
from lamina.memory.memory import Replay
from lamina.registry import only_where
from lamina.strategies.base import Strategy

BEFORE = "before"


@dataclass
class SSIAT(Strategy):
    """CosFace over the task's classes; semantic shift of the old means; a unified head."""

    scale: float = 20.0
    """s, by which cosines become logits."""
    margin: float = 0.0
    """m, by which the true class's cosine must be better."""
    bandwidth: float = 4.0
    """sigma, how near a row must be to an old mean to speak for its drift; infinite counts all rows
    alike."""
    epochs: int = 5
    """Passes of the refit; 0 leaves the head as it is."""
    samples: int = 256
    """Features of each class in a pass, and rows of a batch."""
    refit_rate: float = 0.01
    """Learning rate of the refit."""

    family = "adapter"
    paper = "Semantically-Shifted Incremental Adapter-Tuning is A Continual ViTransformer"
    year = 2024
    classes_only = "its head is refitted on Gaussians of classes"
    matters_when = only_where(samples="epochs", refit_rate="epochs")

    def __post_init__(self) -> None:
        check_fields(
            "strategy",
            self,
            not_negative=["margin", "epochs"],
            positive=["scale", "bandwidth", "samples", "refit_rate"],
        )

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Keep the adapter as it is: drift is measured from there."""
        if task.index > 0 and MAIN in model.adapters:
            model.copy(MAIN, BEFORE)

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(s (cos(f(x), w_c) - m [c = y])) over the task's classes (eq. 4)."""
        assert batch.task is not None
        similarity = cosines(model(batch.inputs).features, model.adapters[HEAD].tensors)
        margins = self.margin * F.one_hot(batch.labels, similarity.shape[1])
        logits = self.scale * (similarity - margins)
        return StepOutput(cross_entropy(logits, batch.labels, batch.task.classes))

    def review(self, model: AdaptedModel, batch: Batch) -> Summary:
        """Moments of the features of each class; for every old class, the sum of how far the rows
        near its mean moved, and of their weights."""
        features = model(batch.inputs).features
        sums = moments(features, batch.labels, model.num_classes())
        if BEFORE in model.adapters:
            before = model(batch.inputs, adapters=[BEFORE]).features
            weight = nearness(before, self.state["gaussians"]["mean"], self.bandwidth)
            sums["weight"] = weight.sum(dim=0)
            sums["shift"] = weight.T @ (features - before).double()
        return Summary(sums)

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Move the old means by the estimated drift, add the new classes, refit the head on all."""
        assert review is not None
        gaussians = Gaussians.of(review.sums)
        if "gaussians" in self.state:
            past = Gaussians(**self.state["gaussians"])
            if BEFORE in model.adapters:
                model.remove(BEFORE)
                drift = review["shift"] / review["weight"].clamp_min(1e-300)[:, None]
                past = replace(past, mean=past.mean + drift.float())
            gaussians = past.pooled(gaussians)
        self.state["gaussians"] = dict(vars(gaussians))
        if task.index == 0:
            return
        batches = gaussians.batches(
            self.epochs, self.samples, generator_of(model.seed, "ssiat", task.index)
        )

        def loss_of(head: Mapping[str, Tensor], _: int) -> Tensor:
            features, labels = next(batches)
            return cross_entropy(self.scale * cosines(features, head), labels)

        num_steps = self.epochs * gaussians.num_seen
        head = descend(model.adapters[HEAD].tensors, loss_of, num_steps, self.refit_rate)
        model.add_tensors(HEAD, head)

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """s cos(f(x), w_c)."""
        return self.scale * cosines(model(inputs).features, model.adapters[HEAD].tensors)


def cosines(features: Tensor, head: Mapping[str, Tensor]) -> Tensor:
    """Cosine similarity [N, C] of features to the rows of a head."""
    return F.normalize(features, dim=1) @ F.normalize(head["weight"], dim=1).T


def nearness(features: Tensor, means: Tensor, bandwidth: float) -> Tensor:
    """exp(-||f - mu||^2 / (2 sigma^2)), float64 [N, C]: far rows have small weights, not none."""
    return torch.exp(-torch.cdist(features.double(), means.double()).square() / (2 * bandwidth**2))
