"""APER (Zhou et al., 2024): class means of two features side by side, of the frozen backbone and of
the backbone adapted to the first task, compared by cosine.

Trained: the job's adapter on the first task only, with a throw-away linear head, then frozen.
Remembered: one mean per class [2 dim], as a sum and a count, so that domains of the same class add
up. Without an adapter both features are one, and it is SimpleCIL. Differs from the authors' code:
the throw-away head is linear, there a cosine classifier with a learned scale (0.878 against 0.877
on the assistant stream). The code's bottlenecks read a layer's tokens before its second norm and
drop out 0.1 (`adapter.before_norm: true`, `dropout: 0.1`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters.model import MAIN, AdaptedModel
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy
from lamina.memory.gaussian import class_sums, plus_classes
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy


@dataclass
class APER(Strategy):
    """Adapt once, merge with what was there before, then nearest class mean."""

    family = "prototype"
    paper = (
        "Revisiting Class-Incremental Learning with Pre-Trained Models: "
        "Generalizability and Adaptivity are All You Need"
    )
    year = 2024
    classes_only = "it answers with the nearest mean of a class"
    trained_tasks = "first"

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """The adapter has learned the first task: now it stays."""
        if task.index == 1 and MAIN in model.adapters:
            model.freeze(MAIN)

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """First task: L = CE(f(x), y)."""
        return StepOutput(cross_entropy(model(batch.inputs).logits, batch.labels))

    def merged(self, model: AdaptedModel, inputs: Mapping[str, Tensor]) -> Tensor:
        """[f_frozen(x), f_adapted(x)], [N, 2 dim]."""
        return torch.cat([model.frozen_features(inputs), model(inputs).features], dim=1)

    def review(self, model: AdaptedModel, batch: Batch) -> Summary:
        """Counts and sums of merged features per class."""
        features = self.merged(model, batch.inputs)
        return Summary(class_sums(features, batch.labels, model.num_classes()))

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Add the task's sums to those of the past."""
        assert review is not None
        self.state.update(plus_classes(review.sums, self.state))

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """Cosine similarity of each merged feature to each class mean; minus infinity for a class
        never seen."""
        means = F.normalize(self.state["total"], dim=1)
        similarity = F.normalize(self.merged(model, inputs), dim=1) @ means.T
        return similarity.masked_fill(self.state["count"] == 0, float("-inf"))
