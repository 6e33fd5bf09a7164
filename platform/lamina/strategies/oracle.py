"""Per-task oracle (Rebuffi et al., 2017): an adapter and a head for each task alone, picked by the
task that the test gives away.

Trained: the current task's adapter and head, from new. Remembered: those of every earlier task,
frozen. Nothing is shared, so nothing is forgotten and nothing transferred: what single-task
training reaches, which task-incremental learning is measured against. It must be told the task, so
it is for task-incremental streams only.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lamina.adapters.model import HEAD, AdaptedModel
from lamina.adapters.routing import among
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy


@dataclass
class Oracle(Strategy):
    """Cross-entropy over the task's classes, under the task's own adapter and head."""

    family = "baseline"
    paper = "Learning multiple visual domains with residual adapters"
    year = 2017
    answers = ("classes", "tokens")
    scenarios = ("task_incremental",)
    grows = True

    def setup(self, model: AdaptedModel) -> None:
        """Nothing yet: every task brings its own."""

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """A new adapter and head; all others stay as they are."""
        model.freeze(*model.adapters)
        model.add(f"task_{task.index}")
        model.grow_head(len(task.classes), name=_head(task.index))

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE over the task's classes."""
        assert batch.task is not None
        logits = self._of_task(model, batch.inputs, batch.task.index)
        return StepOutput(cross_entropy(logits, batch.labels, columns=batch.task.classes or None))

    def _of_task(self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: int) -> Tensor:
        """Logits [N, classes of the task] of the task's own module."""
        own = [name for name in model.active if name == f"task_{task}"]
        return model(inputs, adapters=own, head=_head(task)).logits

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """The task's logits at its classes' places, minus infinity elsewhere; where answers are
        tokens, as they are."""
        assert task is not None
        own = self._of_task(model, inputs, task.index)
        return among(own, task.classes, model.num_classes()) if task.classes else own


def _head(task: int) -> str:
    return f"{HEAD}_{task}"
