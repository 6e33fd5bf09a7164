"""MagMax (Marczak et al., 2024): tasks are learned one after the other, and of all tasks' changes
since the start each entry's largest is kept.

Trained: one adapter of the job's kind, which goes on from task to task unmerged, and the head's
rows of the task's classes. Remembered: the start, the adapter as it goes on, the entries of largest
size so far. Differs from the paper: the vectors are of the adapter's tensors, not of all weights;
its text head is fixed, here the rows of a task's classes are trained with it.
"""

from dataclasses import dataclass

from lamina.adapters import kind_names
from lamina.adapters.merging import added, magmax
from lamina.adapters.model import MAIN, AdaptedModel
from lamina.adapters.task_vectors import ORIGIN, answer_with, last_vector
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy


@dataclass
class MagMax(Strategy):
    """theta = theta_0 + lambda tau, each entry of tau the largest in size of all theta_t -
    theta_0."""

    weight: float = 0.5
    """lambda, what the merged vector counts (0.5 in the authors' code)."""

    family = "merging"
    paper = "MagMax: Leveraging Model Merging for Seamless Continual Learning"
    year = 2024
    answers = ("classes", "tokens")
    adapters = tuple(kind_names())

    def __post_init__(self) -> None:
        check_fields("strategy", self, not_negative=["weight"])

    def setup(self, model: AdaptedModel) -> None:
        """theta_0, and the adapter that goes on from it."""
        model.add()
        model.copy(MAIN, ORIGIN)

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """theta_t starts at theta_{t-1}."""
        model.active = [MAIN]

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(task's classes)."""
        assert batch.task is not None
        logits = model(batch.inputs).logits
        return StepOutput(cross_entropy(logits, batch.labels, batch.task.classes))

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Keep what is larger in size of tau_t and the past, and answer with the merge."""
        trained, origin = model.adapters[MAIN], model.adapters[ORIGIN].tensors
        vector = last_vector(model)
        if "vector" in self.state:
            vector = magmax(self.state["vector"], vector)
        self.state["vector"] = vector
        answer_with(model, trained.kind, added(origin, vector, self.weight))
