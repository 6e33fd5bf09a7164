"""MAS (Aljundi et al., 2018): memory aware synapses, parameters that the output is sensitive to are
held.

Trained: the job's adapter and the head. Remembered: one importance, summed over tasks, and one
anchor of the trained tensors. Importance is the mean size of the gradient of the output's squared
length, sample by sample, and needs no label: the size of a batch's summed gradient, which public
code takes, is another quantity. The output for an answer in tokens is the logits of all of them.
Differs from the paper: the output is the shared head's, so that a later task sees the rows of
earlier ones too.
"""

from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from lamina.adapters.model import AdaptedModel, per_sample_gradients
from lamina.checks import check_fields
from lamina.core import IGNORED, Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy, quadratic_penalties
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy

SAMPLES_AT_ONCE = 32
"""Each sample's gradient is held by itself for a moment: this many copies of what is trained."""


@dataclass
class MAS(Strategy):
    """Cross-entropy with a quadratic pull towards the last task's solution, weighted by the
    output's sensitivity."""

    strength: float = 1.0
    """lambda, the weight of the penalty."""

    family = "regularisation"
    paper = "Memory Aware Synapses: Learning what (not) to forget"
    year = 2018
    answers = ("classes", "tokens")
    from_second_task = ("strength",)

    def __post_init__(self) -> None:
        check_fields("strategy", self, not_negative=["strength"])

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(f(x), y) + lambda * sum_j Omega_j (phi_j - phi*_j)^2 (eq. 4)."""
        loss = cross_entropy(model(batch.inputs).logits, batch.labels)
        if not self.state:
            return StepOutput(loss)
        penalty = quadratic_penalties(
            model.parameters(), self.state["anchor"], self.state["importance"]
        )
        return StepOutput(loss + self.strength * penalty, {"penalty": penalty.detach()})

    def review(self, model: AdaptedModel, batch: Batch) -> Summary:
        """Sums over samples of |d ||f(x)||^2 / d phi| (section 4.1), and how many there were."""
        pieces = [self._sensitivity(model, piece) for piece in batch.chunks(SAMPLES_AT_ONCE)]
        return reduce(Summary.__add__, pieces)

    def _sensitivity(self, model: AdaptedModel, batch: Batch) -> Summary:
        gradients = per_sample_gradients(
            model, batch.inputs, lambda logits: squared_lengths(logits, batch.labels)
        )
        sums = {name: gradient.abs().sum(dim=0) for name, gradient in gradients.items()}
        return Summary(
            {**sums, "count": torch.tensor(float(len(batch)), device=model.backbone.device)}
        )

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Omega <- Omega + mean over the task's samples, phi* <- phi."""
        assert review is not None
        parameters = model.parameters()
        importance = {name: review[name] / review["count"].item() for name in parameters}
        for name, old in self.state.get("importance", {}).items():
            importance[name][: len(old)] += old
        self.state["importance"] = importance
        self.state["anchor"] = {name: value.detach().clone() for name, value in parameters.items()}


def squared_lengths(logits: Tensor, labels: Tensor) -> Tensor:
    """||f(x)||^2 of each row, [N]: of logits [N, C], or of [N, A, V] over the tokens that count."""
    squares = logits.square().sum(dim=-1)
    return squares if labels.dim() == 1 else (squares * (labels != IGNORED)).sum(dim=1)
