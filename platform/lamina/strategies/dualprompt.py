"""DualPrompt (Wang et al., 2022): a general prompt that all tasks share and an expert prompt for
each task, found again by its key.

Trained: the G-prompt, the current task's E-prompt (it starts as the last task's) and key, and the
head. Remembered: the earlier E-prompts and keys, frozen. Differs from the public code: at test each
row picks its E-prompt by itself, where there a batch votes (a leak of its task); the query is the
backbone's own pooled feature. As in the code, prefixes stand behind the attention's projections.
The code's learning rate is scaled by batch / 256; here a job's rate is what it says.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters.base import uniform
from lamina.adapters.model import AdaptedModel
from lamina.adapters.prompting import layers_in, prefix_overlay
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task, generator_of
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.strategies.base import NO_ADAPTER, Strategy

GENERAL = "g_prompt"
EXPERT = "e_prompt_{}"


@dataclass
class DualPrompt(Strategy):
    """Cross-entropy over the task's classes, and a pull of the task's key towards its queries."""

    g_length: int = 5
    """L_g, prefix tokens of the G-prompt."""
    e_length: int = 5
    """L_e, prefix tokens of an E-prompt (20 on ImageNet-R)."""
    g_layers: tuple[int, ...] | None = None
    """Layers of the G-prompt. Default: the first sixth (0 and 1 of twelve)."""
    e_layers: tuple[int, ...] | None = None
    """Layers of the E-prompts. Default: the next quarter (2 to 4 of twelve)."""
    pull: float = 1.0
    """lambda, the weight of the distance of the key from the queries."""

    family = "prompt"
    paper = "DualPrompt: Complementary Prompting for Rehearsal-free Continual Learning"
    year = 2022
    answers = ("classes", "tokens")
    adapters = (NO_ADAPTER,)
    routes = True
    grows = True

    def __post_init__(self) -> None:
        check_fields("strategy", self, not_negative=["pull"], positive=["g_length", "e_length"])

    def setup(self, model: AdaptedModel) -> None:
        """The G-prompt, from U(-1, 1)."""
        shape = (len(self.layers(model)[0]), 2, self.g_length, model.backbone.dim)
        prompt = uniform(shape, 1.0, generator_of(model.seed, "adapter", GENERAL))
        model.add_tensors(GENERAL, {"prompt": prompt})
        self.state["num_tasks"] = 0

    def layers(self, model: AdaptedModel) -> tuple[list[int], list[int]]:
        """Where the G-prompt and the E-prompts are."""
        return (
            layers_in(model.backbone, self.g_layers, range(0, 2), "g_layers"),
            layers_in(model.backbone, self.e_layers, range(2, 5), "e_layers"),
        )

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """A new key, and an E-prompt that starts where the last one, now frozen, ended."""
        name, dim = EXPERT.format(task.index), model.backbone.dim
        generator = generator_of(model.seed, "adapter", name)
        key = uniform((dim,), 1.0, generator)
        if task.index == 0:
            shape = (len(self.layers(model)[1]), 2, self.e_length, dim)
            prompt = uniform(shape, 1.0, generator)
        else:
            last = EXPERT.format(task.index - 1)
            model.freeze(last)
            prompt = model.adapters[last].tensors["prompt"].clone()
        model.add_tensors(name, {"prompt": prompt, "key": key})
        self.state["num_tasks"] = task.index + 1

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(task's classes) + lambda * mean of 1 - cos(q(x), k_t)."""
        assert batch.task is not None
        key = model.adapters[EXPERT.format(batch.task.index)].tensors["key"]
        distance = 1 - F.cosine_similarity(model.frozen_features(batch.inputs), key[None]).mean()
        logits = self.logits(model, batch.inputs, torch.tensor(batch.task.index))
        loss = cross_entropy(logits, batch.labels, classes=batch.task.classes)
        return StepOutput(loss + self.pull * distance, {"key_distance": distance.detach()})

    def logits(self, model: AdaptedModel, inputs: Mapping[str, Tensor], chosen: Tensor) -> Tensor:
        """Logits with the G-prompt and the E-prompts chosen, one for all or [N]."""
        g_layers, e_layers = self.layers(model)
        general = prefix_overlay(model.adapters[GENERAL].tensors["prompt"], g_layers)
        expert = prefix_overlay(self._of_all(model, "prompt")[chosen], e_layers)
        return model.under(inputs, general | expert).logits

    def route(self, model: AdaptedModel, inputs: Mapping[str, Tensor]) -> Tensor:
        """argmax_t cos(q(x), k_t)."""
        query = F.normalize(model.frozen_features(inputs), dim=1)
        return (query @ F.normalize(self._of_all(model, "key"), dim=1).T).argmax(dim=1)

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """Logits under the E-prompt of the task, or that of the nearest key."""
        if task is not None and task.index < self.state["num_tasks"]:
            return self.logits(model, inputs, torch.tensor(task.index))
        return self.logits(model, inputs, self.route(model, inputs))

    def _of_all(self, model: AdaptedModel, name: str) -> Tensor:
        """A tensor of every task, stacked."""
        experts = [EXPERT.format(index) for index in range(self.state["num_tasks"])]
        return torch.stack([model.adapters[each].tensors[name] for each in experts])
