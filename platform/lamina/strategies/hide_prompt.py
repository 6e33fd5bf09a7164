"""HiDe-Prompt (Wang et al., 2023): infer the task, predict within it and among all, each by itself.

Trained, in two phases: a TII head on the frozen backbone's features; then (WTP) the task's
prefixes, which start as the last task's, with the head at a tenth of their rate. After a task its
prompt leans towards the mean of the earlier, and both heads are refitted (TAP) on Gaussian features
of all classes. Remembered: prompts; mean and covariance of each class's features, uninstructed and
instructed. Differs from the code: Gaussians have full covariances (there an option). Differs from
the paper: the contrast is the code's. A class that recurs is its latest task's.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters.alignment import refit_head
from lamina.adapters.base import Tensors, uniform
from lamina.adapters.model import HEAD, AdaptedModel
from lamina.adapters.prompting import layers_in, prefix_overlay
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task, generator_of
from lamina.losses import cross_entropy, self_contrast
from lamina.memory.gaussian import Gaussians, moments
from lamina.memory.memory import Replay
from lamina.registry import only_where
from lamina.strategies.base import NO_ADAPTER, Strategy

PAST = "past_prompts"
PROMPT = "prompt"
TII_HEAD = "tii_head"
MOMENTS = ("count", "total", "outer")
TEMPERATURE = 0.8


@dataclass
class HiDePrompt(Strategy):
    """Cross-entropy over the task's classes and a contrast with the features of all others."""

    length: int = 5
    """Prefix tokens of a prompt (20 on ImageNet-R)."""
    layers: tuple[int, ...] | None = None
    """Prompted layers. Default: the first five twelfths (0 to 4 of twelve)."""
    contrast: float = 0.1
    """lambda, the weight of the contrastive regularisation."""
    momentum: float = 0.01
    """alpha, how far a prompt leans towards the mean of the earlier ones."""
    refit_epochs: int = 30
    """Passes of a refit, each over new Gaussian features."""
    refit_rate: float = 0.005
    """Learning rate of a refit, by SGD with a cosine."""

    family = "prompt"
    paper = "Hierarchical Decomposition of Prompt-Based Continual Learning"
    year = 2023
    classes_only = "its heads are refitted on Gaussians of classes"
    matters_when = only_where(refit_rate="refit_epochs")
    scenarios = ("class_incremental", "task_incremental", "joint")
    adapters = (NO_ADAPTER,)
    routes = True

    def __post_init__(self) -> None:
        check_fields(
            "strategy", self, not_negative=["refit_epochs", "contrast"], positive=["length"]
        )

    def setup(self, model: AdaptedModel) -> None:
        """No prompt is remembered yet."""
        self.state["layers"] = layers_in(model.backbone, self.layers, range(0, 5), "layers")
        self.state["owner"] = torch.zeros(0, dtype=torch.int64)
        self.state["means"] = torch.zeros(0, model.backbone.dim, device=model.backbone.device)
        shape = (0, len(self.state["layers"]), 2, self.length, model.backbone.dim)
        model.add_tensors(PAST, {"prompts": torch.zeros(shape)})
        model.freeze(PAST)

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """A prompt that starts as the last one ended, the first from U(-1, 1); TII's new rows."""
        past = model.adapters[PAST].tensors["prompts"]
        prompt = uniform(past.shape[1:], 1.0, generator_of(model.seed, "adapter", PROMPT))
        model.add_tensors(PROMPT, {"prompt": past[-1].clone() if len(past) else prompt})
        model.grow_head(model.num_classes(), TII_HEAD)
        owner = F.pad(self.state["owner"], (0, model.num_classes() - len(self.state["owner"])))
        owner[list(task.classes)] = task.index
        self.state["owner"] = owner

    def phases(self, task: Task) -> tuple[float, ...]:
        """TII (20 epochs to the 50 of WTP on CIFAR-100), then WTP."""
        return (0.4, 1.0)

    def begin_phase(self, model: AdaptedModel, task: Task, phase: int) -> None:
        """Train the TII head, then the prompt and the head."""
        groups = ([TII_HEAD], [PROMPT, HEAD])
        model.freeze(*groups[1 - phase])
        model.unfreeze(*groups[phase])

    def rate(self, name: str) -> float:
        """Heads learn at a tenth of the prompts' rate."""
        return 1.0 if name.startswith(PROMPT) else 0.1

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """TII: L = CE(task's classes). WTP: L = CE(task's classes) + lambda * contrast."""
        assert batch.task is not None
        if model.adapters[TII_HEAD].trainable:
            logits = model.logits(model.frozen_features(batch.inputs), TII_HEAD)
            return StepOutput(cross_entropy(logits, batch.labels, classes=batch.task.classes))
        features = self.features(model, batch.inputs, self.leaning(model))
        loss = cross_entropy(model.logits(features), batch.labels, classes=batch.task.classes)
        contrast = self_contrast(torch.cat([self.state["means"], features]), TEMPERATURE)
        return StepOutput(loss + self.contrast * contrast, {"contrast": contrast.detach()})

    def leaning(self, model: AdaptedModel) -> Tensor:
        """(1 - alpha) e_t + alpha * mean of e_i, i < t: the prompt of the task under way."""
        prompt = model.adapters[PROMPT].tensors["prompt"]
        past = model.adapters[PAST].tensors["prompts"]
        return (1 - self.momentum) * prompt + self.momentum * past.mean(0) if len(past) else prompt

    def features(self, model: AdaptedModel, inputs: Tensors, prompts: Tensor) -> Tensor:
        """Instructed features [N, dim] under one prompt, or under each row's own."""
        return model.backbone(inputs, prefix_overlay(prompts, self.state["layers"])).features

    def review(self, model: AdaptedModel, batch: Batch) -> Summary:
        """Moments of the features that either head reads: uninstructed and instructed."""
        tii = model.frozen_features(batch.inputs)
        read = {TII_HEAD: tii, HEAD: self.features(model, batch.inputs, self.leaning(model))}
        found = {k: moments(v, batch.labels, model.num_classes()) for k, v in read.items()}
        return Summary({f"{k}.{name}": v for k, sums in found.items() for name, v in sums.items()})

    @torch.no_grad()
    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Keep the leaning prompt and the Gaussians; from the second task on, refit both heads."""
        assert review is not None
        past = model.adapters[PAST].tensors["prompts"]
        model.add_tensors(PAST, {"prompts": torch.cat([past, self.leaning(model)[None]])})
        model.freeze(PAST)
        for head in (TII_HEAD, HEAD):
            gaussians = Gaussians.of({k: review[f"{head}.{k}"] for k in MOMENTS})
            if head in self.state:
                gaussians = Gaussians(**self.state[head]).updated(gaussians)
            self.state[head] = dict(vars(gaussians))
            if task.index > 0:
                generator = generator_of(model.seed, "hide_prompt", head, task.index)
                refit_head(model, head, gaussians, generator, self.refit_epochs, self.refit_rate)
        self.state["means"] = gaussians.mean[gaussians.count > 0]

    def route(self, model: AdaptedModel, inputs: Tensors) -> Tensor:
        """The task of the class that the TII head finds likeliest."""
        predicted = model.logits(model.frozen_features(inputs), TII_HEAD).argmax(dim=1)
        return torch.as_tensor(self.state["owner"]).to(predicted.device)[predicted]

    def predict(self, model: AdaptedModel, inputs: Tensors, task: Task | None) -> Tensor:
        """Logits among all classes under the prompt of the task, or of the task inferred."""
        past = model.adapters[PAST].tensors["prompts"]
        if task is not None and task.index < len(past):
            return model.logits(self.features(model, inputs, past[task.index]))
        return model.logits(self.features(model, inputs, past[self.route(model, inputs)]))
