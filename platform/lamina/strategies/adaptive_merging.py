"""Adaptive LoRA merging (Coleman et al., 2024): a LoRA for each task, and coefficients of their sum
that are learned on a few exemplars of all classes.

Trained: the current task's LoRA and the head's rows of its classes; then, in a second phase, one
coefficient per LoRA and nothing else. Remembered: every task's LoRA, the coefficients, the
exemplars of the job's memory (one per class in the paper). No task is needed at test. Differs from
the paper: the current task's share in the second phase is its rows, weighted so that every class
of every task counts alike (where answers are tokens, every task); the merge is exact, of the
products B A, its rank grows with the tasks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.adapters.merging import weighted_lora
from lamina.adapters.model import HEAD, AdaptedModel
from lamina.adapters.task_vectors import answer_with
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy

MERGE = "merge"


@dataclass
class AdaptiveMerging(Strategy):
    """dW = sum_t alpha_t B_t A_t, with alpha learned on exemplars."""

    replay_size: int = 32
    """Exemplars of earlier tasks in each step of the second phase."""
    share: float = 0.5
    """Epochs of the second phase, as a share of the job's."""
    rate_factor: float = 10.0
    """Learning rate of the coefficients, as a multiple of the job's."""

    family = "merging"
    paper = "Adaptive LoRA Merging for Efficient Domain Incremental Learning"
    year = 2024
    answers = ("classes", "tokens")
    adapters = ("lora",)
    needs_memory = True
    grows = True

    def __post_init__(self) -> None:
        check_fields("strategy", self, positive=["replay_size", "share", "rate_factor"])

    def setup(self, model: AdaptedModel) -> None:
        """Nothing yet: every task brings its own."""

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """A new LoRA, and coefficients that start as the average."""
        self.state["classes"] = self.state.get("classes", 0) + _classes(task)
        model.add(f"task_{task.index}")
        count = task.index + 1
        model.add_tensors(MERGE, {"coefficients": torch.full((count,), 1.0 / count)})

    def phases(self, task: Task) -> tuple[float, ...]:
        """The task's own; then, where there is something to merge, the coefficients."""
        return (1.0,) if task.index == 0 else (1.0, self.share)

    def begin_phase(self, model: AdaptedModel, task: Task, phase: int) -> None:
        """First the new LoRA alone, then the coefficients alone."""
        current = f"task_{task.index}"
        trained, frozen = ((current, HEAD), (MERGE,)) if phase == 0 else ((MERGE,), (current, HEAD))
        model.unfreeze(*trained)
        model.freeze(*frozen)
        model.active = [current] if phase == 0 else self._loras(model)

    def rate(self, name: str) -> float:
        """The coefficients move faster than the rest."""
        return self.rate_factor if name.startswith(f"{MERGE}.") else 1.0

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """First L = CE(task's classes); then the mean over the classes of every task of the CE over
        all of them."""
        assert batch.task is not None
        if not model.adapters[MERGE].trainable:
            logits = model(batch.inputs).logits
            return StepOutput(cross_entropy(logits, batch.labels, batch.task.classes))
        loss = cross_entropy(self.merged_logits(model, batch), batch.labels)
        exemplars = replay.draw(self.replay_size)
        if exemplars is None:
            return StepOutput(loss)
        past = cross_entropy(self.merged_logits(model, exemplars), exemplars.labels)
        past = past * replay.balance(exemplars.num_terms(), batch)
        new = _classes(batch.task) / self.state["classes"]
        return StepOutput(new * loss + (1 - new) * past)

    def merged_logits(self, model: AdaptedModel, batch: Batch) -> Tensor:
        """Logits under sum_t alpha_t B_t A_t; the gradient reaches alpha."""
        coefficients = model.adapters[MERGE].tensors["coefficients"]
        scaled = {
            f"{lora}.{name}": coefficient * tensor
            for lora, coefficient in zip(self._loras(model), coefficients, strict=True)
            for name, tensor in model.adapters[lora].tensors.items()
            if ".lora_B." in name
        }
        return model(batch.inputs, adapters=self._loras(model), parameters=scaled).logits

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Merge with the coefficients learned, and answer with the result."""
        loras = self._loras(model)
        model.freeze(*loras, MERGE)
        coefficients = model.adapters[MERGE].tensors["coefficients"]
        tensors = weighted_lora([model.adapters[name].tensors for name in loras], coefficients)
        answer_with(model, model.kind, tensors)

    def _loras(self, model: AdaptedModel) -> list[str]:
        """The tasks' LoRAs, in order."""
        number = len(model.adapters[MERGE].tensors["coefficients"])
        return [f"task_{index}" for index in range(number)]


def _classes(task: Task) -> int:
    """How many classes a task shows; one where answers are tokens."""
    return max(len(task.classes), 1)
