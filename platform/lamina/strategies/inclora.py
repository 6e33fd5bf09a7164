"""IncLoRA (baseline of Wang et al., 2023): a new LoRA for each task, added to the frozen earlier
ones, without any constraint.

Trained: the current task's LoRA and the head. Remembered: the earlier LoRAs; all are summed, so no
task is needed at test. Cross-entropy sees the task's own classes only and the rows of old classes
stay as they were, as in `olora`: what that method's constraint is worth is what it gains on this.
"""

from dataclasses import dataclass

from lamina.adapters.model import AdaptedModel
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy


@dataclass
class IncLoRA(Strategy):
    """Cross-entropy over the task's classes."""

    family = "baseline"
    paper = "Orthogonal Subspace Learning for Language Model Continual Learning"
    year = 2023
    answers = ("classes", "tokens")
    adapters = ("lora",)
    grows = True

    def setup(self, model: AdaptedModel) -> None:
        """Nothing yet: every task brings its own."""

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Freeze the last task's LoRA where it is, and attach a new one."""
        model.freeze(*model.active)
        model.add(f"task_{task.index}")

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(task's classes)."""
        assert batch.task is not None
        logits = model(batch.inputs).logits
        return StepOutput(cross_entropy(logits, batch.labels, batch.task.classes))
