"""MOS (Sun et al., 2025): model surgery, an adapter for each task that stays close to the earlier
ones, and at test each input refines by itself which adapter it needs.

Trained: the current task's adapter, which starts from the last one, and the head. Remembered: every
task's adapter; moments of every class's features under its own adapter, on which the head is
refitted, and means under the first. Differs from the public code: there every forward pulls an
adapter to the earlier ones, at test too; here each step does. The contrast is the code's. There,
the head learns at a tenth of the adapter's rate (`head_rate: 0.1`); over as few steps as here it is
better at the same (0.937 against 0.911 on digits). The code's bottlenecks read a layer's tokens
before its second norm and drop out 0.1 (`adapter.before_norm: true`, `dropout: 0.1`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters.alignment import refit_head
from lamina.adapters.model import HEAD, AdaptedModel
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task, generator_of
from lamina.losses import cross_entropy, self_contrast
from lamina.memory.gaussian import Gaussians, class_sums, moments, plus_classes
from lamina.memory.memory import Replay
from lamina.registry import only_where
from lamina.strategies.base import Strategy

TEMPERATURE = 0.8
ROUNDS = 4


@dataclass
class MOS(Strategy):
    """Adapter merging in training, self-refined retrieval at test, Gaussian replay in the head."""

    merging: float = 0.1
    """alpha, how far each step moves the adapter to the mean of the earlier ones."""
    contrast: float = 0.1
    """Weight of the contrastive term."""
    head_rate: float = 1.0
    """Learning rate of the head, as a factor of the adapter's (0.1 in the authors' code)."""
    epochs: int = 30
    """Passes of the refit; 0 leaves the head as it is."""
    samples: int = 240
    """Features of each class in a pass, and rows of a batch."""
    refit_rate: float = 0.005
    """Learning rate of the refit."""

    family = "adapter"
    paper = "MOS: Model Surgery for Pre-Trained Model-Based Class-Incremental Learning"
    year = 2025
    classes_only = "its head is refitted on Gaussians of classes"
    matters_when = only_where(samples="epochs", refit_rate="epochs")
    scenarios = ("class_incremental", "task_incremental", "joint")
    adapters = ("bottleneck", "lora")
    routes = True
    grows = True

    def __post_init__(self) -> None:
        check_fields(
            "strategy",
            self,
            not_negative=["contrast", "head_rate", "epochs", "samples", "refit_rate"],
            share=["merging"],
        )

    def setup(self, model: AdaptedModel) -> None:
        """The first task's adapter."""
        model.add("task_0")
        self.state.update(task_of=[], past={})

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Freeze the earlier adapters, take their mean, and go on from a copy of the last."""
        if task.index == 0:
            return
        last = f"task_{task.index - 1}"
        current = f"task_{task.index}"
        model.freeze(last)
        tensors = [model.adapters[f"task_{index}"].tensors for index in range(task.index)]
        self.state["past"] = {
            key: torch.stack([each[key] for each in tensors]).mean(dim=0) for key in tensors[0]
        }
        model.copy(last, current)
        model.unfreeze(current)
        model.active = [current]

    def rate(self, name: str) -> float:
        """The head's own."""
        return self.head_rate if name.startswith(f"{HEAD}.") else 1.0

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(task's classes) + reg CE(V V^T / 0.8, identity), V the means of old classes above
        the batch's features."""
        assert batch.task is not None
        output = model(batch.inputs)
        loss = cross_entropy(output.logits, batch.labels, batch.task.classes)
        vectors = output.features
        if "gaussians" in self.state:
            vectors = torch.cat([self.state["gaussians"]["mean"], vectors])
        contrast = self_contrast(vectors, TEMPERATURE)
        return StepOutput(loss + self.contrast * contrast, {"contrast": contrast.detach()})

    @torch.no_grad()
    def after_step(self, model: AdaptedModel, seen: Summary | None) -> None:
        """A_t <- (1 - alpha) A_t + alpha mean of the earlier ones."""
        for name, past in self.state["past"].items():
            model.adapters[model.active[0]].tensors[name].lerp_(past, self.merging)

    def review(self, model: AdaptedModel, batch: Batch) -> Summary:
        """Moments of the features of each class, and their sums under the first adapter."""
        own = model(batch.inputs).features
        first = model(batch.inputs, ["task_0"]).features
        sums = moments(own, batch.labels, model.num_classes())
        totals = class_sums(first, batch.labels, model.num_classes())["total"]
        return Summary({**sums, "prototypes": totals})

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Remember the task's classes; from the second task on, refit the head on all classes."""
        assert review is not None
        past = {"prototypes": self.state["prototypes"]} if task.index > 0 else {}
        self.state.update(plus_classes({"prototypes": review["prototypes"]}, past))
        gaussians = Gaussians.of(review.sums)
        if "gaussians" in self.state:
            gaussians = Gaussians(**self.state["gaussians"]).updated(gaussians)
        self.state["gaussians"] = dict(vars(gaussians))
        new = model.num_classes() - len(self.state["task_of"])
        self.state["task_of"] += [task.index] * new
        if task.index == 0:
            return
        generator = generator_of(model.seed, "mos", task.index)
        refit_head(model, HEAD, gaussians, generator, self.epochs, self.refit_rate, self.samples)

    def retrieve(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Each input's adapter [N], the logits under it [N, classes], and cosines to class means
        under the first: they name the first adapter, then each adapter's prediction the next."""
        num_tasks = self.state["task_of"][-1] + 1
        features = [model(inputs, [f"task_{index}"]).features for index in range(num_tasks)]
        means = F.normalize(self.state["prototypes"], dim=1)
        cosines = F.normalize(features[0], dim=1) @ means.T
        logits = torch.stack([model.logits(each) for each in features], dim=1)
        task_of = torch.tensor(self.state["task_of"], device=logits.device)
        chosen = task_of[cosines.argmax(dim=1)]
        refined = task_of[logits.argmax(dim=2)]
        for _ in range(ROUNDS - 1):
            chosen = refined.gather(1, chosen[:, None])[:, 0]
        return chosen, logits[torch.arange(len(chosen)), chosen], cosines

    def route(self, model: AdaptedModel, inputs: Mapping[str, Tensor]) -> Tensor:
        """The task whose adapter the retrieval ends with."""
        return self.retrieve(model, inputs)[0]

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """softmax(logits) + softmax(t cosines) after t tasks; with the task told, its adapter's
        logits."""
        if task is not None:
            return model(inputs, [f"task_{task.index}"]).logits
        _, logits, cosines = self.retrieve(model, inputs)
        num_tasks = self.state["task_of"][-1] + 1
        return logits.softmax(dim=1) + (num_tasks * cosines).softmax(dim=1)
