"""SimpleCIL (Zhou et al., 2023): the mean feature of each class on the frozen backbone, compared by
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
from lamina.memory.memory import Replay
from lamina.strategies.base import NO_ADAPTER, Strategy


@dataclass
class SimpleCIL(Strategy):
    """Nearest class mean in cosine similarity."""

    family = "prototype"
    paper = "Revisiting Class-Incremental Learning with Pre-Trained Models"
    year = 2023
    adapters = (NO_ADAPTER,)
    trained_tasks = "none"

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """Never called: it takes no gradient step."""
        raise AssertionError("SimpleCIL takes no gradient step")

    def review(self, model: AdaptedModel, batch: Batch) -> Summary:
        """Sums of features [classes, dim] and counts [classes]."""
        features = model(batch.inputs).features
        one_hot = F.one_hot(batch.labels, model.num_classes()).to(features.dtype)
        return Summary({"sums": one_hot.T @ features, "counts": one_hot.sum(dim=0)})

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Add the task's sums to those of the past."""
        assert review is not None
        for name, value in review.sums.items():
            total = value.clone()
            if name in self.state:
                total[: len(self.state[name])] += self.state[name]
            self.state[name] = total

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """Cosine similarity of each feature to each class mean; minus infinity for a class never
        seen."""
        means = F.normalize(self.state["sums"], dim=1)
        similarity = F.normalize(model(inputs).features, dim=1) @ means.T
        return similarity.masked_fill(self.state["counts"] == 0, float("-inf"))
