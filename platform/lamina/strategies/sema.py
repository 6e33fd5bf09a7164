"""SEMA (Wang et al., 2025): self-expansion with a mixture of adapters, a layer gets a new adapter
only when a task's inputs look like none that its adapters have learned.

Trained: on the first task an adapter in every layer, later one in each layer that expands, with its
column of the layer's router, which mixes the layer's adapters; after it, its representation
descriptor, a linear autoencoder of the layer's mean token. The head always learns. Remembered: all
of these, frozen, and each descriptor's mean error and its deviation. Differs from the paper: layers
are scanned once, before a task, and may expand together; there a scan follows each expansion,
shallow layers first, which may spare deeper ones. Errors are summed over the task's rows, not over
the last 500 of training; padding is no token. Differs from the code: there the first batch of 128
that surprises expands a layer, here the mean over the task's rows does; descriptors learn at the
adapters' rate, there at twice it. The code's bottlenecks read a layer's tokens before its second
norm (`adapter.before_norm: true`). Adapters, routers and head have one rate there, under SGD, where
a small gradient makes a small step. AdamW's step is the rate itself, so adapters would move as fast
as the head and take the old classes' features with them: all but the head is slower here. What
limits it is the common head, whose tasks never meet in training: of the family job's `assistant` it
gets 0.85 right among the classes of a row's own task and 0.49 among all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters.base import uniform
from lamina.adapters.mixture import adapted_layers, bottleneck_of, mixed_features
from lamina.adapters.model import HEAD, AdaptedModel
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task, generator_of
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy


@dataclass
class SEMA(Strategy):
    """Cross-entropy over the task's classes, then reconstruction. The paper's adapters have width
    16 and scale 1."""

    threshold: float = 2.0
    """Mean |z-score| above which a descriptor does not know a task (1 for ImageNet-A)."""
    descriptor_width: int = 128
    """Code of a descriptor (of 768 features)."""
    description: float = 1.0
    """Length of the descriptors' training, as a share of a task's epochs (20 after 5 or 20)."""
    growing: int | None = None
    """How many of the last adapted layers may expand. Default: a quarter, as 3 of 12."""
    slow: float = 0.03
    """The learning rate of all but the head, as a factor of the head's (1 suits `sgd`)."""

    family = "adapter"
    paper = "Self-Expansion of Pre-trained Models with Mixture of Adapters for Continual Learning"
    year = 2025
    classes_only = "its routers read the mean token of a text, and so of the answer"
    adapters = ("bottleneck",)
    grows = True

    def __post_init__(self) -> None:
        check_fields(
            "strategy",
            self,
            not_negative=["slow"],
            positive=["threshold", "descriptor_width", "description", "growing"],
        )

    def setup(self, model: AdaptedModel) -> None:
        """The layers that may expand, each with no expert, and no descriptor's errors."""
        layers = adapted_layers(model)
        count = self.growing or max(1, round(len(layers) / 4))
        self.state["experts"] = {str(layer): [] for layer in layers[-count:]}
        self.state["errors"] = {}

    def preview(self, model: AdaptedModel, batch: Batch) -> Summary | None:
        """Per layer, the sums [M] of every descriptor's |error - mean| / deviation."""
        if not self.state["errors"]:
            return None
        _, means = mixed_features(model, batch.inputs, self.state["experts"])
        sums = {"count": torch.tensor(float(len(batch)), device=model.backbone.device)}
        for layer, experts in self.state["experts"].items():
            usual = torch.stack([self.state["errors"][f"{layer}.{each}"] for each in experts])
            errors = [descriptor_error(model, layer, each, means[layer]) for each in experts]
            deviation = (torch.stack(errors, dim=1) - usual[:, 0]) / usual[:, 1]
            sums[layer] = deviation.abs().sum(dim=0)
        return Summary(sums)

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Expand the layers where even the nearest descriptor is surprised."""
        experts = self.state["experts"]
        new = list(experts)
        layers = adapted_layers(model)
        if preview is not None:
            limit = self.threshold * float(preview["count"])
            new = [layer for layer in experts if float(preview[layer].min()) > limit]
            layers = [int(layer) for layer in new]
        self.state["new"] = new
        for layer in new:
            experts[layer].append(task.index)
        if new:
            add_expert(model, task.index, layers, new, self.descriptor_width)

    def phases(self, task: Task) -> tuple[float, ...]:
        """Adapters, routers and head; then the descriptors of what is new."""
        return (1.0, self.description) if self.state["new"] else (1.0,)

    def begin_phase(self, model: AdaptedModel, task: Task, phase: int) -> None:
        """Only what is new is trained, and the head beside the adapters."""
        self.state["phase"] = phase
        new = self.state["new"]
        index = task.index
        functional = (f"adapter_{index}", f"router_{index}") if new else ()
        descriptors = [descriptor_of(layer, index) for layer in new]
        (model.freeze if phase == 1 else model.unfreeze)(HEAD, *functional)
        (model.unfreeze if phase == 1 else model.freeze)(*descriptors)

    def rate(self, name: str) -> float:
        """The head's own."""
        return 1.0 if name.startswith(f"{HEAD}.") else self.slow

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(task's classes), or the sum over new descriptors of their mean error."""
        assert batch.task is not None
        features, means = mixed_features(model, batch.inputs, self.state["experts"])
        if self.state["phase"] == 0:
            logits = model.logits(features)
            return StepOutput(cross_entropy(logits, batch.labels, classes=batch.task.classes))
        index = batch.task.index
        new = self.state["new"]
        errors = [descriptor_error(model, layer, index, means[layer]).mean() for layer in new]
        return StepOutput(torch.stack(errors).sum())

    def review(self, model: AdaptedModel, batch: Batch) -> Summary | None:
        """Sums of each new descriptor's errors and of their squares."""
        assert batch.task is not None
        if not self.state["new"]:
            return None
        _, means = mixed_features(model, batch.inputs, self.state["experts"])
        sums = {"count": torch.tensor(float(len(batch)), device=model.backbone.device)}
        for layer in self.state["new"]:
            error = descriptor_error(model, layer, batch.task.index, means[layer]).double()
            sums[layer] = torch.stack([error.sum(), error.square().sum()])
        return Summary(sums)

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Remember mean and deviation of the new descriptors' errors, and freeze them."""
        for layer in self.state["new"]:
            assert review is not None
            model.freeze(descriptor_of(layer, task.index))
            count = float(review["count"])
            total, squares = review[layer]
            variance = (squares - total.square() / count) / (count - 1)
            usual = torch.stack([total / count, variance.clamp_min(1e-12).sqrt()]).float()
            self.state["errors"][f"{layer}.{task.index}"] = usual

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """Logits under the mixtures of all adapters."""
        return model.logits(mixed_features(model, inputs, self.state["experts"])[0])


def add_expert(
    model: AdaptedModel,
    number: int,
    layers: Sequence[int],
    mixed_layers: Sequence[str],
    descriptor_width: int,
) -> None:
    """An adapter in `layers`, and in those of them that are mixed a column of the router and a
    descriptor, a linear autoencoder dim -> width -> dim. Weights start as in nn.Linear."""
    dim, width = model.backbone.dim, descriptor_width
    model.add(f"adapter_{number}", replace(bottleneck_of(model), layers=tuple(layers)))
    drawn, columns = generator_of(model.seed, "expert", number), {}
    for layer in mixed_layers:
        columns[f"{layer}.weight"] = uniform((1, dim), dim**-0.5, drawn)
        columns[f"{layer}.bias"] = uniform((1,), dim**-0.5, drawn)
        descriptor = {
            "encoder": uniform((width, dim), dim**-0.5, drawn),
            "code_bias": torch.zeros(width),
            "decoder": uniform((dim, width), width**-0.5, drawn),
            "bias": torch.zeros(dim),
        }
        model.add_tensors(descriptor_of(layer, number), descriptor)
    model.add_tensors(f"router_{number}", columns)


def descriptor_of(layer: str, number: int) -> str:
    """The name of an expert's descriptor in a layer."""
    return f"descriptor_{layer}_{number}"


def descriptor_error(model: AdaptedModel, layer: str, number: int, tokens: Tensor) -> Tensor:
    """Mean square of h - AE(h) over the features of each mean token h [N, dim], [N]."""
    tensors = model.adapters[descriptor_of(layer, number)].tensors
    code = F.linear(tokens, tensors["encoder"], tensors["code_bias"])
    return (tokens - F.linear(code, tensors["decoder"], tensors["bias"])).square().mean(dim=1)
