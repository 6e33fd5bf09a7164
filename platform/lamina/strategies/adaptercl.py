"""AdapterCL (Madotto et al., 2021): one adapter for each task, and at test the one whose task finds
the input least surprising.

Trained: the current task's adapter and its own head. Remembered: all of them, and for each task a
density of its inputs. Differs from the paper: there the adapters sit on a language model, and an
input goes to the adapter under which its perplexity is lowest. An encoder has no perplexity, so
here each task has a density model of the frozen backbone's features, probabilistic PCA (Tipping and
Bishop, 1999), that is fitted from sums, and an input goes to the task that gives it the least
negative log-likelihood. One forward finds the task, one adapter answers. Where answers are tokens
it is the same: the features are of what is asked alone, and the perplexity of a prompt would say
little here, as the adapters are trained on the answers only.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.adapters import kind_names
from lamina.adapters.isolation import IsolatedModules
from lamina.adapters.model import AdaptedModel
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy
from lamina.memory.gaussian import Gaussians, moments
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy

SMALLEST_VARIANCE = 1e-8

MODULES = IsolatedModules()


@dataclass
class AdapterCL(Strategy):
    """Cross-entropy of the task's own head; routing by likelihood."""

    components: int = 4
    """Principal directions of a task's density; far fewer than a task's rows."""

    family = "adapter"
    paper = "Continual Learning in Task-Oriented Dialogue Systems"
    year = 2021
    answers = ("classes", "tokens")
    adapters = tuple(kind_names())
    routes = True
    grows = True

    def __post_init__(self) -> None:
        check_fields("strategy", self, positive=["components"])

    def setup(self, model: AdaptedModel) -> None:
        """Nothing yet: every task brings its own."""
        self.state.update(classes=[], densities=[])

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Freeze the last adapter and head, and attach new ones."""
        MODULES.attach(model, task)
        self.state["classes"].append(list(task.classes))

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(f(x; A_t), y), classes counted within the task."""
        assert batch.task is not None
        logits = MODULES.own_logits(model, batch.inputs, batch.task.index)
        return StepOutput(cross_entropy(logits, batch.labels, columns=batch.task.classes or None))

    def review(self, model: AdaptedModel, batch: Batch) -> Summary:
        """Moments of the frozen features of the task's rows."""
        features = model.frozen_features(batch.inputs)
        one = torch.zeros(len(features), dtype=torch.int64, device=features.device)
        return Summary(moments(features, one, 1))

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Fit the task's density."""
        assert review is not None
        gaussian = Gaussians.of(review.sums)
        density = principal_density(gaussian.covariance[0], self.components)
        self.state["densities"].append({"mean": gaussian.mean[0], **density})

    def route(self, model: AdaptedModel, inputs: Mapping[str, Tensor]) -> Tensor:
        """argmin_t -log p_t(frozen features)."""
        features = model.frozen_features(inputs)
        surprise = [surprise_of(features, density) for density in self.state["densities"]]
        return torch.stack(surprise, dim=1).argmin(dim=1)

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """Logits of the routed task's classes, -inf for all others."""
        classes = self.state["classes"]
        if task is not None:
            return MODULES.logits(model, inputs, task.index, classes)
        return MODULES.answer(model, inputs, self.route(model, inputs), classes)

    def generate(
        self,
        model: AdaptedModel,
        inputs: Mapping[str, Tensor],
        task: Task | None,
        max_new_tokens: int,
    ) -> Tensor:
        """What the routed task's adapter says."""
        if task is None:
            chosen = self.route(model, inputs)
        else:
            chosen = torch.full_like(inputs["input_ids"][:, 0], task.index)
        return MODULES.generate(model, inputs, chosen, max_new_tokens)


def principal_density(covariance: Tensor, components: int) -> dict[str, Tensor]:
    """Probabilistic PCA of a covariance [d, d]: its largest `components` directions `basis` [d, q]
    with their `variances` [q], and the mean variance `noise` of all others."""
    values, vectors = torch.linalg.eigh(covariance.double())
    values = values.clamp_min(SMALLEST_VARIANCE).float()
    rest = len(values) - min(components, len(values) - 1)
    return {
        "basis": vectors[:, rest:].float().contiguous(),
        "variances": values[rest:],
        "noise": values[:rest].mean(),
    }


def surprise_of(features: Tensor, density: Mapping[str, Tensor]) -> Tensor:
    """-log p(features), [N], up to a constant that all tasks share."""
    centred = features - density["mean"]
    scores = centred @ density["basis"]
    within = (scores.square() / density["variances"]).sum(dim=1)
    beside = (centred.square().sum(dim=1) - scores.square().sum(dim=1)) / density["noise"]
    num_others = features.shape[1] - len(density["variances"])
    volume = density["variances"].log().sum() + num_others * density["noise"].log()
    return (within + beside + volume) / 2
