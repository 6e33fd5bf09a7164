"""S-Prompts (Wang et al., 2022): prompts learned for each domain by itself; an input takes those of
the domain with the nearest centre.

Trained: an adapter of the job's kind (`prompt` is the paper's S-iPrompts) and a head over the
task's classes, new with each task. Remembered: all of them, frozen, and for each task the centres
of k-means on the normalised features of the frozen backbone. Differs from the paper: any adapter
kind can be what a domain learns; the language-image variant (S-liPrompts) needs a text tower. As in
the authors' code, the nearest centre is that of least L1 distance.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters.isolation import IsolatedModules
from lamina.adapters.model import AdaptedModel
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task, generator_of
from lamina.losses import cross_entropy
from lamina.memory.clusters import k_means
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy

MODULES = IsolatedModules("domain_{}", "domain_{}_head")


@dataclass
class SPrompts(Strategy):
    """Plain cross-entropy on each domain alone: nothing is shared, so nothing is forgotten."""

    centres: int = 5
    """k, centres that stand for a domain."""

    family = "prompt"
    paper = (
        "S-Prompts Learning with Pre-trained Transformers: An Occam's Razor for Domain "
        "Incremental Learning"
    )
    year = 2022
    answers = ("classes", "tokens")
    routes = True
    grows = True
    summary_rows = True

    def __post_init__(self) -> None:
        check_fields("strategy", self, positive=["centres"])

    def setup(self, model: AdaptedModel) -> None:
        """Nothing yet: every task brings its own."""
        self.state.update(classes=[], centres=[])

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Freeze what is there; a new adapter and a new head."""
        MODULES.attach(model, task)
        self.state["classes"].append(list(task.classes))

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE over the domain's classes."""
        assert batch.task is not None
        logits = MODULES.logits(model, batch.inputs, batch.task.index, self.state["classes"])
        return StepOutput(cross_entropy(logits, batch.labels))

    def review(self, model: AdaptedModel, batch: Batch) -> Summary:
        """Normalised features of every row: what k-means reads."""
        features = F.normalize(model.frozen_features(batch.inputs), dim=1)
        return Summary({}, rows={"features": features})

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """The centres of the domain."""
        assert review is not None
        generator = generator_of(model.seed, "s_prompts", task.index)
        self.state["centres"].append(k_means(review["features"], self.centres, generator))

    def route(self, model: AdaptedModel, inputs: Mapping[str, Tensor]) -> Tensor:
        """The domain of the centre with the least L1 distance."""
        query = F.normalize(model.frozen_features(inputs), dim=1)
        distances = [torch.cdist(query, each, p=1).amin(dim=1) for each in self.state["centres"]]
        return torch.stack(distances, dim=1).argmin(dim=1)

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """The answer of the task, or of the nearest domain."""
        classes = self.state["classes"]
        if task is not None and task.index < len(self.state["centres"]):
            return MODULES.logits(model, inputs, task.index, classes)
        return MODULES.answer(model, inputs, self.route(model, inputs), classes)
