"""LwF (Li and Hoiem, 2016): learning without forgetting, the previous model teaches the new one on
the new task's data.

Trained: the job's adapter and the head. Remembered: a frozen copy of both, as they were before the
task. With an adapter the teacher shares the backbone, so it costs no second model. Differs from the
paper: one head over all classes instead of one per task; the new task's cross-entropy sees its own
classes only, as the paper's does; no warm-up of the new head. The distillation carries the
factor T^2 of Hinton et al., which the paper leaves out: its lambda_o is T^2 times the strength.
"""

from dataclasses import dataclass

import torch

from lamina.adapters.model import HEAD, MAIN, AdaptedModel
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import answered, cross_entropy, distillation
from lamina.memory.memory import Replay
from lamina.registry import only_where
from lamina.strategies.base import Strategy

TEACHER = "teacher"
TEACHER_HEAD = "teacher_head"


@dataclass
class LwF(Strategy):
    """Cross-entropy on the new classes and distillation on the old ones."""

    strength: float = 1.0
    """lambda_o / T^2, the weight of the distillation (1/4 in the paper)."""
    temperature: float = 2.0
    """T, the softening of both models' outputs."""

    family = "regularisation"
    paper = "Learning without Forgetting"
    year = 2016
    answers = ("classes", "tokens")
    matters_when = only_where(temperature="strength")
    from_second_task = ("strength", "temperature")

    def __post_init__(self) -> None:
        check_fields("strategy", self, not_negative=["strength"], positive=["temperature"])

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Keep the model as it is: the teacher."""
        if task.index == 0:
            return
        model.copy(HEAD, TEACHER_HEAD)
        if MAIN in model.adapters:
            model.copy(MAIN, TEACHER)

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(new classes) + lambda_o T^2 KL(teacher || student over the old classes,
        softened), a mean over rows; where answers are tokens, over all tokens of the vocabulary and
        a mean over those of the answers."""
        logits = model(batch.inputs).logits
        assert batch.task is not None
        loss = cross_entropy(logits, batch.labels, classes=batch.task.classes)
        if TEACHER_HEAD not in model.adapters:
            return StepOutput(loss)
        # The frozen head of a language model has known every token from the start.
        known = self.state["num_known"] or None
        with torch.no_grad():
            adapters = [TEACHER] if TEACHER in model.adapters else []
            teacher = model(batch.inputs, adapters=adapters, head=TEACHER_HEAD).logits
        student, taught = (answered(each, batch.labels)[:, :known] for each in (logits, teacher))
        kept = distillation(student, taught, self.temperature)
        return StepOutput(loss + self.strength * kept, {"distillation": kept.detach()})

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Remember how many classes the teacher of the next task will know."""
        self.state["num_known"] = model.num_classes()
