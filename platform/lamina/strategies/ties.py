"""TIES (Yadav et al., 2023): every task is learned from the same start, and the tasks' changes are
merged after small ones are trimmed and signs elected.

Trained: an adapter of the job's kind, anew from the same first values with each task, and the
head's rows of the task's classes. Remembered: the start, every task's vector, the merged adapter.
Differs from the paper: the vectors are of the adapter's tensors (a LoRA's factors, as in PEFT's
`ties`; PEFT trims each tensor by itself, here as in the paper all tensors of a task together), not
of all weights; where entries cancel to exactly zero the elected sign is plus, not the majority's.
"""

from dataclasses import dataclass

from lamina.adapters import kind_names
from lamina.adapters.merging import added, ties
from lamina.adapters.model import MAIN, AdaptedModel
from lamina.adapters.task_vectors import ORIGIN, answer_with, last_vector, set_origin, start_anew
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy


@dataclass
class TIES(Strategy):
    """theta = theta_0 + lambda TIES(theta_1 - theta_0, ..., theta_t - theta_0)."""

    density: float = 0.2
    """k, the share of a task's entries that are kept."""
    weight: float = 1.0
    """lambda, what the merged vector counts."""

    family = "merging"
    paper = "TIES-Merging: Resolving Interference When Merging Models"
    year = 2023
    answers = ("classes", "tokens")
    adapters = tuple(kind_names())

    def __post_init__(self) -> None:
        check_fields("strategy", self, not_negative=["weight"], share_above_0=["density"])

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
        """Keep tau_t, merge all vectors anew, and answer with the result."""
        trained, origin = model.adapters[MAIN], model.adapters[ORIGIN].tensors
        vectors = self.state.setdefault("vectors", [])
        vectors.append(last_vector(model))
        merged = added(origin, ties(vectors, self.density), self.weight)
        answer_with(model, trained.kind, merged)
