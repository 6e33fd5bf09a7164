"""SLCA (Zhang et al., 2023): slow learner with classifier alignment, the representation learns
slowly and the head is aligned afterwards on Gaussian features of all classes.

Trained: the job's adapter at a lower rate than the head, and the head. Remembered: mean and
covariance of the features of every class, as they were when it was learned, and which classes came
together. The aligned head only answers: the next task goes on from the head as it was before.
Differs from the paper: an adapter instead of the whole backbone. The authors' SLCA++ slows a LoRA
down to 0.1 of the head's rate under SGD, where a small gradient makes a small step; AdamW's step is
the rate itself, so that here 0.01 is slow. Differs from the public code: there
the means of earlier tasks are scaled by 0.9 to 1 before they are sampled. A class that comes back
pools its statistics.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.adapters.model import HEAD, AdaptedModel
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task, generator_of
from lamina.descent import descend
from lamina.losses import cross_entropy
from lamina.memory.gaussian import Gaussians, moments
from lamina.memory.memory import Replay
from lamina.registry import only_where
from lamina.strategies.base import Strategy

ALIGNED = "aligned"


@dataclass
class SLCA(Strategy):
    """Cross-entropy over the task's classes; then the head descends on samples of every class."""

    slow: float = 0.01
    """The adapter's learning rate, as a factor of the head's (0.1 suits `sgd`)."""
    temperature: float = 0.1
    """tau, of the normalised logits in the alignment."""
    epochs: int = 5
    """Passes of the alignment, each of as many batches as there are classes: few classes want more.
    0 leaves the head as it is."""
    samples: int = 256
    """Features of each class in a pass, and rows of a batch."""
    alignment_rate: float = 0.01
    """Learning rate of the alignment."""

    family = "prototype"
    paper = (
        "SLCA: Slow Learner with Classifier Alignment for Continual Learning on a Pre-trained Model"
    )
    year = 2023
    classes_only = "its head is refitted on Gaussians of classes"
    matters_when = only_where(temperature="epochs", samples="epochs", alignment_rate="epochs")

    def __post_init__(self) -> None:
        check_fields(
            "strategy",
            self,
            not_negative=["slow", "epochs"],
            positive=["temperature", "samples", "alignment_rate"],
        )

    def setup(self, model: AdaptedModel) -> None:
        """The job's adapter; no class is known yet."""
        model.add()
        self.state["groups"] = []

    def rate(self, name: str) -> float:
        """The slow learner: all but the head learns slowly."""
        return 1.0 if name.startswith(f"{HEAD}.") else self.slow

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(task's classes)."""
        assert batch.task is not None
        logits = model(batch.inputs).logits
        return StepOutput(cross_entropy(logits, batch.labels, batch.task.classes))

    def review(self, model: AdaptedModel, batch: Batch) -> Summary:
        """Moments of the features of each class."""
        return Summary(moments(model(batch.inputs).features, batch.labels, model.num_classes()))

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Remember the task's classes, and align a copy of the head on all classes; with the first
        task there is nothing to align."""
        assert review is not None
        gaussians = Gaussians.of(review.sums)
        if "gaussians" in self.state:
            gaussians = Gaussians(**self.state["gaussians"]).pooled(gaussians)
        self.state["gaussians"] = dict(vars(gaussians))
        known = {number for group in self.state["groups"] for number in group}
        new = [number for number in task.classes if number not in known]
        self.state["groups"] += [new] if new else []
        batches = gaussians.batches(
            self.epochs, self.samples, generator_of(model.seed, "slca", task.index)
        )

        def loss_of(head: Mapping[str, Tensor], _: int) -> Tensor:
            features, labels = next(batches)
            logits = features @ head["weight"].T + head["bias"]
            normalised = normalised_logits(logits, self.state["groups"])
            return cross_entropy(normalised / self.temperature, labels)

        num_steps = self.epochs * gaussians.num_seen if task.index > 0 else 0
        head = descend(model.adapters[HEAD].tensors, loss_of, num_steps, self.alignment_rate)
        model.add_tensors(ALIGNED, head)
        model.freeze(ALIGNED)

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """Logits of the aligned head."""
        return model(inputs, head=ALIGNED).logits


def normalised_logits(logits: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    """Logits [N, C] over the mean, over the tasks, of the norm of a task's logits."""
    norms = torch.stack([logits[:, list(group)].norm(dim=1) for group in groups])
    return logits / norms.mean(dim=0).clamp_min(1e-7)[:, None]
