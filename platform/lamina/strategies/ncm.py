"""NCM (Mensink et al., 2013): the nearest class mean, in Euclidean distance between features of the
frozen backbone.

Trained: nothing. Remembered: one mean per class, as a sum and a count, which do not depend on the
order of rows; so the stream may as well have no tasks. Differs from the paper: the features come
from a pre-trained transformer and no metric is learned on them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.adapters.model import HEAD, AdaptedModel
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.memory.gaussian import class_means, class_sums, plus_classes
from lamina.memory.memory import Replay
from lamina.strategies.base import NO_ADAPTER, Strategy


@dataclass
class NCM(Strategy):
    """argmin_c ||f(x) - mu_c||."""

    family = "prototype"
    paper = "Distance-Based Image Classification: Generalizing to New Classes at Near-Zero Cost"
    year = 2013
    classes_only = "it answers with the nearest mean of a class"
    scenarios = (*Strategy.scenarios, "task_free")
    adapters = (NO_ADAPTER,)
    trained_tasks = "none"

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """Without task boundaries the means grow batch by batch. The loss is no loss: its gradient
        is zero."""
        nothing = 0.0 * model.adapters[HEAD].tensors["bias"].sum()
        return StepOutput(nothing, seen=self.review(model, batch))

    def after_step(self, model: AdaptedModel, seen: Summary | None) -> None:
        """Add the batch's sums to those of the past."""
        assert seen is not None
        self.state.update(plus_classes(seen.sums, self.state))

    def review(self, model: AdaptedModel, batch: Batch) -> Summary:
        """Counts and sums of features per class."""
        features = model.frozen_features(batch.inputs)
        return Summary(class_sums(features, batch.labels, model.num_classes()))

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Add the task's sums to those of the past."""
        self.after_step(model, review)

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """-||f(x) - mu_c||^2; minus infinity for a class never seen."""
        distance = torch.cdist(
            model.frozen_features(inputs),
            class_means(self.state),
            compute_mode="donot_use_mm_for_euclid_dist",
        )
        return -distance.square().masked_fill(self.state["count"] == 0, float("inf"))
