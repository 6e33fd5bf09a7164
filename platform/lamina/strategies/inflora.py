"""InfLoRA (Liang and Li, 2024): each task's LoRA reads its inputs only in directions that no
earlier task's inputs took.

Trained: B of the current task's LoRA, and the head. A is designed before the task, from the
covariance H of each module's inputs, and stays. Remembered: the earlier LoRAs, frozen and summed,
and per module a basis of the input directions taken so far (DualGPM). As in the authors' code, H
itself is decomposed, so the thresholds are shares of its squared eigenvalues. Differs from the
authors' code: where fewer free directions are left than the rank, the other rows of A are zero
(there, they are arbitrary and interfere); the first task's basis is as large as the threshold says
(there, one less).
"""

from dataclasses import dataclass

from lamina.adapters.model import AdaptedModel
from lamina.adapters.succession import (
    grown_subspaces,
    input_covariances,
    read_free_directions,
    succeed,
)
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy


@dataclass
class InfLoRA(Strategy):
    """Cross-entropy over the task's classes, of B alone."""

    threshold: float = 0.95
    """epsilon of the first task: the share of energy that a basis must hold (lamb in the code)."""
    last_threshold: float = 1.0
    """epsilon after `num_tasks` tasks; it grows by the task (lame)."""
    num_tasks: int = 10
    """T, over how many tasks epsilon grows."""

    family = "lora"
    paper = "InfLoRA: Interference-Free Low-Rank Adaptation for Continual Learning"
    year = 2024
    answers = ("classes", "tokens")
    adapters = ("lora",)
    grows = True

    def __post_init__(self) -> None:
        check_fields(
            "strategy", self, positive=["num_tasks"], share=["threshold", "last_threshold"]
        )

    def setup(self, model: AdaptedModel) -> None:
        """Nothing yet: every task brings its own."""
        self.state["subspaces"] = {}

    def preview(self, model: AdaptedModel, batch: Batch) -> Summary:
        """Per module H, the sum of x x^T over its inputs x, under the LoRAs so far."""
        return input_covariances(model, batch)

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Attach a LoRA whose rows of A are the leading directions of H that are still free, by
        1 / sqrt 3 as in the code."""
        assert preview is not None
        tensors = succeed(model, task.index).tensors
        read_free_directions(tensors, preview.sums, self.state["subspaces"])

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(task's classes)."""
        assert batch.task is not None
        logits = model(batch.inputs).logits
        return StepOutput(cross_entropy(logits, batch.labels, batch.task.classes))

    def review(self, model: AdaptedModel, batch: Batch) -> Summary:
        """H again, under what was learned."""
        return input_covariances(model, batch)

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """DualGPM: add to each module's basis what the task's inputs bring."""
        assert review is not None
        climb = min(task.index / self.num_tasks, 1.0)
        epsilon = self.threshold + (self.last_threshold - self.threshold) * climb
        taken = self.state["subspaces"]
        self.state["subspaces"] = grown_subspaces(review.sums, taken, epsilon)
