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

from lamina.adapters.model import HEAD, AdaptedModel
from lamina.core import Batch, StepOutput, Summary, Task, generator_of
from lamina.losses import cross_entropy
from lamina.memory.clusters import k_means
from lamina.memory.memory import Replay
from lamina.registry import InputError
from lamina.strategies.base import Strategy


@dataclass
class CoLoR(Strategy):
    """Cross-entropy within the task; at test the task of the nearest centre."""

    clusters: int = 5
    """k, centres per task."""

    family = "lora"
    paper = "Continual Learning with Low Rank Adaptation"
    year = 2023
    adapters = ("lora",)
    routes = True

    def __post_init__(self) -> None:
        if self.clusters < 1:
            raise InputError(f"strategy.clusters: {self.clusters} is not positive")

    def setup(self, model: AdaptedModel) -> None:
        """Nothing yet: every task brings its own."""
        self.state.update(classes=[], centres=[])

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Freeze what the last task trained; a new LoRA and a new classifier over the task's
        classes."""
        if task.index > 0:
            model.freeze(f"task_{task.index - 1}", f"head_{task.index - 1}")
        model.freeze(HEAD)
        self.state["classes"].append(list(task.classes))
        model.grow_head(len(task.classes), f"head_{task.index}")
        model.add(f"task_{task.index}")
        model.active = [f"task_{task.index}"]

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(f_t(x), y) under the task's own LoRA and classifier."""
        assert batch.task is not None
        classes = torch.tensor(batch.task.classes, device=batch.labels.device)
        own_labels = (batch.labels[:, None] == classes).int().argmax(dim=1)
        logits = model(batch.inputs, head=f"head_{batch.task.index}").logits
        return StepOutput(cross_entropy(logits, own_labels))

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
        device = model.backbone.device
        if task is not None and task.index < len(self.state["centres"]):
            number = len(next(iter(inputs.values())))
            routed = torch.full((number,), task.index, device=device)
        else:
            routed = self.route(model, inputs)
        logits = torch.full((len(routed), model.num_classes()), float("-inf"), device=device)
        for index in routed.unique().tolist():
            rows = (routed == index).nonzero()[:, 0]
            picked = {name: value[rows] for name, value in inputs.items()}
            own = model(picked, adapters=[f"task_{index}"], head=f"head_{index}").logits
            classes = torch.tensor(self.state["classes"][index], device=device)
            logits[rows[:, None], classes] = own
        return logits
