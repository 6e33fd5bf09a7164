"""CoLoR (Wistuba et al., 2023): a LoRA and a classifier for each task, and the nearest of the
tasks' cluster centres says which one answers.

Trained: the current task's LoRA and its own classifier, over its own classes. Remembered: both of
every task, and the k-means centres of its frozen features. No task is needed at test, and none is
forgotten: only routing can fail. Differs from the paper: nothing known; its variant CoLoR++, which
clusters the features under the first task's LoRA, is not here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.adapters.isolation import IsolatedModules
from lamina.adapters.model import AdaptedModel
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task, generator_of
from lamina.losses import cross_entropy
from lamina.memory.clusters import k_means
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy

MODULES = IsolatedModules()


@dataclass
class CoLoR(Strategy):
    """Cross-entropy within the task; at test the task of the nearest centre."""

    clusters: int = 5
    """k, centres per task."""

    family = "lora"
    paper = "Continual Learning with Low Rank Adaptation"
    year = 2023
    answers = ("classes", "tokens")
    adapters = ("lora",)
    routes = True
    grows = True
    summary_rows = True

    def __post_init__(self) -> None:
        check_fields("strategy", self, positive=["clusters"])

    def setup(self, model: AdaptedModel) -> None:
        """Nothing yet: every task brings its own."""
        self.state.update(classes=[], centres=[])

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Freeze what the last task trained; a new LoRA and a new classifier over the task's
        classes."""
        MODULES.attach(model, task)
        self.state["classes"].append(list(task.classes))
        model.active = [MODULES.names(task.index)[0]]

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(f_t(x), y) under the task's own LoRA and classifier."""
        assert batch.task is not None
        logits = MODULES.own_logits(model, batch.inputs, batch.task.index)
        return StepOutput(cross_entropy(logits, batch.labels, columns=batch.task.classes or None))

    def review(self, model: AdaptedModel, batch: Batch) -> Summary:
        """The frozen features of every row: k-means needs them all."""
        return Summary({}, rows={"features": model.frozen_features(batch.inputs)})

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """The task's centres."""
        assert review is not None
        generator = generator_of(model.seed, "color", task.index)
        self.state["centres"].append(k_means(review["features"], self.clusters, generator))

    def route(self, model: AdaptedModel, inputs: Mapping[str, Tensor]) -> Tensor:
        """The task with the centre that is nearest to the frozen feature."""
        centres = self.state["centres"]
        owner = torch.repeat_interleave(torch.tensor([len(each) for each in centres]))
        nearest = torch.cdist(model.frozen_features(inputs), torch.cat(centres)).argmin(dim=1)
        return owner.to(nearest.device)[nearest]

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """The logits of each row's task under its own LoRA and classifier; minus infinity for the
        classes of others."""
        classes = self.state["classes"]
        if task is not None and task.index < len(self.state["centres"]):
            return MODULES.logits(model, inputs, task.index, classes)
        return MODULES.answer(model, inputs, self.route(model, inputs), classes)
