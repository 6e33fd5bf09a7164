"""OVOR (Huang et al., 2024): one prompt for all tasks, and virtual outliers that keep a task's
classes from claiming what is not theirs.

Trained: the prefixes of OnePrompt (DualPrompt's places, without a pool, keys or query) with the
head; then, prompt frozen, the task's rows of the head alone, on the task's features and on virtual
outliers around the outermost of them. Remembered: nothing else; one forward answers. Differs from
the authors' code: outliers surround the boundary features and neighbours are sought among
normalised features, as the paper says (there the noise is never added to them); they are drawn once
per task; the head descends by SGD with a learning rate of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters.model import HEAD, AdaptedModel
from lamina.adapters.prompting import layers_in, prefix_overlay
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task, generator_of
from lamina.descent import descend
from lamina.losses import cross_entropy, places
from lamina.memory.memory import Replay
from lamina.registry import only_where
from lamina.strategies.base import NO_ADAPTER, Strategy

PROMPT = "prompt"
OF_ALIGNMENT = ["regularisation", "neighbours", "outliers_per_class", "deviation", "alignment_rate"]
BOUNDARY, CANDIDATES = 50, 600
"""Outermost features that are drawn around, and draws around each (OVOR's code)."""
BATCH = 128
"""Features of a step."""


@dataclass
class OVOR(Strategy):
    """Cross-entropy over the task's classes; then energies apart for features and outliers."""

    g_length: int = 10
    """Tokens in the first sixth of the layers, half keys and half values."""
    e_length: int = 40
    """Tokens in the next quarter of the layers, likewise."""
    regularisation: float = 0.1
    """lambda, the weight of the virtual outlier regularisation."""
    inlier_energy: float = -15.0
    """tau_in: features should have less energy, -logsumexp of the task's logits."""
    outlier_energy: float = -3.0
    """tau_out: outliers should have more."""
    neighbours: int = 50
    """K: how far out a point is, is its distance to its K-th nearest feature."""
    outliers_per_class: int = 40
    """Outliers per class of the task: the outermost of 600 draws around each of the 50 outermost
    features."""
    deviation: float = 0.1
    """Standard deviation of the draws, as in the authors' released configuration."""
    alignment_epochs: int = 10
    """Passes over features and outliers."""
    alignment_rate: float = 0.01
    """Learning rate of these passes, by SGD with a cosine."""

    family = "prompt"
    paper = (
        "OVOR: OnePrompt with Virtual Outlier Regularization for Rehearsal-Free "
        "Class-Incremental Learning"
    )
    year = 2024
    classes_only = "its outliers teach the head where a class ends"
    matters_when = only_where(
        inlier_energy="regularisation",
        outlier_energy="regularisation",
        **dict.fromkeys(OF_ALIGNMENT, "alignment_epochs"),
    )
    adapters = (NO_ADAPTER,)
    summary_rows = True

    def __post_init__(self) -> None:
        check_fields(
            "strategy",
            self,
            not_negative=["regularisation", "deviation"],
            positive=["neighbours", "outliers_per_class"],
            even=["g_length", "e_length"],
        )

    def setup(self, model: AdaptedModel) -> None:
        """The prefixes, from U(0, 1)."""
        generator = generator_of(model.seed, "adapter", PROMPT)
        lengths = {"g": self.g_length // 2, "e": self.e_length // 2}
        tensors = {
            name: torch.rand(len(layers), 2, lengths[name], model.backbone.dim, generator=generator)
            for name, layers in self.layers(model).items()
        }
        model.add_tensors(PROMPT, tensors)

    def layers(self, model: AdaptedModel) -> dict[str, list[int]]:
        """Where the two parts of the prompt are: 0 and 1, and 2 to 4 of twelve."""
        return {
            "g": layers_in(model.backbone, None, range(0, 2), "g_length"),
            "e": layers_in(model.backbone, None, range(2, 5), "e_length"),
        }

    def features(self, model: AdaptedModel, inputs: Mapping[str, Tensor]) -> Tensor:
        """Features [N, dim] under the prompt."""
        tensors, layers = model.adapters[PROMPT].tensors, self.layers(model)
        first, second = (prefix_overlay(tensors[name], layers[name]) for name in ("g", "e"))
        return model.backbone(inputs, first | second).features

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(task's classes)."""
        assert batch.task is not None
        logits = self.predict(model, batch.inputs, None)
        return StepOutput(cross_entropy(logits, batch.labels, classes=batch.task.classes))

    def review(self, model: AdaptedModel, batch: Batch) -> Summary:
        """Every row's feature: how far out it lies cannot be had from sums."""
        features = self.features(model, batch.inputs)
        return Summary({}, rows={"features": features, "labels": batch.labels})

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Descend on the task's rows of the head: L = CE + lambda * VOR, each feature and outlier
        once an epoch."""
        assert review is not None
        generator = generator_of(model.seed, "ovor", task.index)
        features, classes = review["features"], list(task.classes)
        number = self.outliers_per_class * len(classes)
        outliers = virtual_outliers(features, number, generator, self.neighbours, self.deviation)
        plan = paired_batches(len(features), len(outliers), self.alignment_epochs, generator)
        head = model.adapters[HEAD].tensors
        columns = places(review["labels"], classes)

        def loss_of(rows: Mapping[str, Tensor], step: int) -> Tensor:
            own, out = plan[step]
            inside = F.linear(features[own], **rows)
            outside = F.linear(outliers[out], **rows)
            apart = energy_bounds(inside, outside, self.inlier_energy, self.outlier_energy)
            return cross_entropy(inside, columns[own]) + self.regularisation * apart

        start = {name: tensor[classes] for name, tensor in head.items()}
        rows = descend(start, loss_of, len(plan), self.alignment_rate)
        with torch.no_grad():
            for name, tensor in rows.items():
                head[name][classes] = tensor

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """Logits under the prompt."""
        return model.logits(self.features(model, inputs))


def energy_bounds(
    inside: Tensor, outside: Tensor, inlier_energy: float, outlier_energy: float
) -> Tensor:
    """Huber loss of how far the energies -logsumexp of logits [n, C] of features are above
    `inlier_energy`, and those of outliers [m, C] below `outlier_energy`; a mean of each (OVOR)."""
    too_high = F.relu(-inside.logsumexp(dim=1) - inlier_energy)
    too_low = F.relu(outlier_energy + outside.logsumexp(dim=1))
    none = torch.zeros_like
    return F.huber_loss(too_high, none(too_high)) + F.huber_loss(too_low, none(too_low))


def virtual_outliers(
    features: Tensor, number: int, generator: torch.Generator, neighbours: int, deviation: float
) -> Tensor:
    """Non-parametric outlier synthesis (NPOS, Tao et al., 2023): `number` points [n, d]. Of the
    draws from N(b, deviation^2 I) around each of the outermost features b, those that are outermost
    themselves.

    How far out a point is, is how far its K-th nearest feature is, K = `neighbours`.
    """
    centres = features[outermost(features, features, BOUNDARY, neighbours)]
    noise = torch.randn(CANDIDATES, *centres.shape, generator=generator).to(features.device)
    drawn = (centres + deviation * noise).flatten(0, 1)
    return drawn[outermost(drawn, features, number, neighbours)]


def outermost(points: Tensor, features: Tensor, number: int, k: int) -> Tensor:
    """Which of `points` [n, d] are furthest from their k-th nearest of `features` [m, d], all
    normalised."""
    distances = torch.cdist(F.normalize(points, dim=1), F.normalize(features, dim=1))
    kth = distances.kthvalue(min(k, len(features)), dim=1).values
    return kth.topk(min(number, len(points))).indices


def paired_batches(
    num_features: int, num_outliers: int, epochs: int, generator: torch.Generator
) -> list[tuple[Tensor, Tensor]]:
    """Rows of features and of outliers for each step; every row once an epoch."""
    num_batches = -(-num_features // BATCH)
    pairs = []
    for _ in range(epochs):
        orders = [torch.randperm(n, generator=generator) for n in (num_features, num_outliers)]
        pairs += list(zip(*(order.tensor_split(num_batches) for order in orders), strict=True))
    return pairs
