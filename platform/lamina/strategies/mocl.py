"""MoCL (Wang et al., 2024): each task adds a module and a key, and every input composes all modules
by how much it resembles their keys.

Trained: the current task's module and key, and the head. Remembered: the earlier modules and keys,
frozen; they take part in learning the new task and in every answer, so no task is inferred. Prompts
and prefixes are composed number by number, LoRAs as the sum of their weighted updates. The weights
are the softmax of scaled cosines, as in the authors' code for BERT (the paper writes the cosines).
Differs from it: one head, whose rows a task trains only for its own classes, instead of one per
task.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters.base import uniform
from lamina.adapters.merging import composed
from lamina.adapters.model import AdaptedModel
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task, generator_of
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy

MODULE = "task_{}"
KEY = "key_{}"


@dataclass
class MoCL(Strategy):
    """Cross-entropy over the task's classes under the composed module, and a pull of the task's key
    towards its queries."""

    scale: float = 8.0
    """s, how sharply the nearest key wins."""
    matching: float = 1.0
    """Weight of the distance of the task's key from the queries."""

    family = "adapter"
    paper = "Rehearsal-Free Modular and Compositional Continual Learning for Language Models"
    year = 2024
    answers = ("classes", "tokens")
    adapters = ("prefix", "prompt", "lora")
    grows = True

    def __post_init__(self) -> None:
        check_fields("strategy", self, not_negative=["scale", "matching"])

    def setup(self, model: AdaptedModel) -> None:
        """Nothing yet: every task brings its own."""
        self.state["num_tasks"] = 0

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Freeze what there is, and add a module and a key."""
        last = self.state["num_tasks"]
        if last > 0:
            model.freeze(MODULE.format(last - 1), KEY.format(last - 1))
        model.add(MODULE.format(last))
        generator = generator_of(model.seed, "adapter", KEY.format(last))
        model.add_tensors(KEY.format(last), {"key": uniform((model.backbone.dim,), 1.0, generator)})
        self.state["num_tasks"] = last + 1

    def similarities(self, model: AdaptedModel, inputs: Mapping[str, Tensor]) -> Tensor:
        """cos(q(x), k_i) with all keys, [N, tasks]."""
        names = [KEY.format(index) for index in range(self.state["num_tasks"])]
        keys = torch.stack([model.adapters[name].tensors["key"] for name in names])
        return F.normalize(model.frozen_features(inputs), dim=1) @ F.normalize(keys, dim=1).T

    def logits(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], similarities: Tensor
    ) -> Tensor:
        """Logits under sum_i w_i P_i with w = softmax(s cos), over as many modules as there are
        similarities [N, n]."""
        weights = (self.scale * similarities).softmax(dim=1)
        names = [MODULE.format(index) for index in range(weights.shape[1])]
        module = composed([model.adapters[name].tensors for name in names], weights)
        laid = {f"{names[-1]}.{key}": tensor for key, tensor in module.items()}
        return model(inputs, adapters=names[-1:], parameters=laid).logits

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(task's classes) + mean of 1 - cos(q(x), k_t)."""
        assert batch.task is not None
        similarities = self.similarities(model, batch.inputs)
        logits = self.logits(model, batch.inputs, similarities)
        distance = 1 - similarities[:, -1].mean()
        loss = cross_entropy(logits, batch.labels, classes=batch.task.classes)
        return StepOutput(loss + self.matching * distance, {"key_distance": distance.detach()})

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """Logits under each input's composition of all modules; where the task is given, of those
        that it was learned with."""
        similarities = self.similarities(model, inputs)
        known = similarities.shape[1] if task is None else task.index + 1
        return self.logits(model, inputs, similarities[:, :known])
