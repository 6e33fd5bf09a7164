"""Task arithmetic (Ilharco et al., 2023; with LoRA: Chitale et al., 2023): every task is learned
from the same start, and what the tasks changed is summed.

Trained: an adapter of the job's kind, anew from the same first values with each task, and the
head's rows of the task's classes. Remembered: the start and the merged adapter. A LoRA is merged
exactly, lambda sum_t B_t A_t (its rank grows with the tasks), other kinds tensor by tensor. Differs
from the papers: lambda is a setting instead of being tuned on all tasks' validation rows, and the
merged adapter is not trained again on exemplars.
"""

from dataclasses import dataclass

from lamina.adapters import kind_names
from lamina.adapters.kinds.lora import LoRA, concatenate
from lamina.adapters.merging import added, weighted_lora
from lamina.adapters.model import MAIN, AdaptedModel
from lamina.adapters.task_vectors import (
    MERGED,
    ORIGIN,
    answer_with,
    last_vector,
    set_origin,
    start_anew,
)
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy


@dataclass
class TaskArithmetic(Strategy):
    """theta = theta_0 + lambda sum_t (theta_t - theta_0)."""

    weight: float = 0.4
    """lambda, what each task's vector counts in the sum."""

    family = "merging"
    paper = "Editing Models with Task Arithmetic"
    year = 2023
    answers = ("classes", "tokens")
    adapters = tuple(kind_names())

    def __post_init__(self) -> None:
        check_fields("strategy", self, not_negative=["weight"])

    def setup(self, model: AdaptedModel) -> None:
        """theta_0, from which every task starts."""
        set_origin(model)

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """theta_t starts at theta_0."""
        start_anew(model)

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(task's classes)."""
        assert batch.task is not None
        logits = model(batch.inputs).logits
        return StepOutput(cross_entropy(logits, batch.labels, batch.task.classes))

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Add lambda tau_t to the sum, and answer with it."""
        trained, origin = model.adapters[MAIN], model.adapters[ORIGIN]
        if isinstance(trained.kind, LoRA):
            merged = weighted_lora([trained.tensors], [self.weight])
            if MERGED in model.adapters:
                merged = concatenate(model.adapters[MERGED].tensors, merged)
        else:
            so_far = model.adapters.get(MERGED, origin).tensors
            merged = added(so_far, last_vector(model), self.weight)
        answer_with(model, trained.kind, merged)
