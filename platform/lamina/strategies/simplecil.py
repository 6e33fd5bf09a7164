"""SimpleCIL (Zhou et al., 2024): the mean feature of each class on the frozen backbone, compared by
cosine.

Trained: nothing. Remembered: one mean per class, as a sum and a count, so that domains of the same
class add up.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters.model import AdaptedModel
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.memory.gaussian import class_sums, plus_classes
from lamina.memory.memory import Replay
from lamina.strategies.base import NO_ADAPTER, Strategy


@dataclass
class SimpleCIL(Strategy):
    """Nearest class mean in cosine similarity."""

    family = "prototype"
    paper = (
        "Revisiting Class-Incremental Learning with Pre-Trained Models: "
        "Generalizability and Adaptivity are All You Need"
    )
    year = 2024
    classes_only = "it answers with the nearest mean of a class"
    adapters = (NO_ADAPTER,)
    trained_tasks = "none"

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """Never called: it takes no gradient step."""
        raise AssertionError("SimpleCIL takes no gradient step")

    def review(self, model: AdaptedModel, batch: Batch) -> Summary:
        """Counts and sums of features per class."""
        features = model(batch.inputs).features
        return Summary(class_sums(features, batch.labels, model.num_classes()))

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Add the task's sums to those of the past."""
        assert review is not None
        self.state.update(plus_classes(review.sums, self.state))

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """Cosine similarity of each feature to each class mean; minus infinity for a class never
        seen."""
        means = F.normalize(self.state["total"], dim=1)
        similarity = F.normalize(model(inputs).features, dim=1) @ means.T
        return similarity.masked_fill(self.state["count"] == 0, float("-inf"))
