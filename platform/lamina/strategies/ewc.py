"""EWC (Kirkpatrick et al., 2017; online form of Schwarz et al., 2018): parameters that mattered to
earlier tasks are held.

Trained: the job's adapter and the head. Remembered: one Fisher diagonal and one anchor of the
trained tensors (online), or one of each per task. The Fisher is the empirical one, squared
gradients of the log-likelihood of the true labels, sample by sample: the square of a batch's mean
gradient, which some public code takes instead, is another quantity. The likelihood of an answer in
tokens is the product of theirs. Differs from the papers: head rows that appear with a task are free
until it ends; lambda stands where the papers write lambda/2.
"""

from dataclasses import dataclass
from functools import reduce

import torch

from lamina.adapters.model import AdaptedModel, per_sample_gradients
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy, quadratic_penalties, row_losses
from lamina.memory.memory import Replay
from lamina.registry import only_where
from lamina.strategies.base import Strategy

SAMPLES_AT_ONCE = 32
"""Each sample's gradient is held by itself for a moment: this many copies of what is trained."""


@dataclass
class EWC(Strategy):
    """Cross-entropy with a quadratic pull towards the last task's solution (or every task's),
    weighted by the Fisher diagonal."""

    strength: float = 1000.0
    """lambda, the weight of the penalty."""
    online: bool = True
    """One Fisher and the last anchor for all tasks together (Schwarz et al.); otherwise one of each
    per task, which grows with their number (Kirkpatrick et al.)."""
    decay: float = 1.0
    """gamma, what an earlier Fisher counts after another task, where online; 1 sums over tasks."""

    family = "regularisation"
    paper = "Overcoming catastrophic forgetting in neural networks"
    year = 2017
    answers = ("classes", "tokens")
    matters_when = only_where(decay="online", online="strength")
    from_second_task = ("strength", "decay")

    def __post_init__(self) -> None:
        check_fields("strategy", self, not_negative=["strength"], share=["decay"])

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(f(x), y) + lambda * sum_k sum_j F_kj (phi_j - phi*_kj)^2, k over what is kept."""
        loss = cross_entropy(model(batch.inputs).logits, batch.labels)
        if not self.state:
            return StepOutput(loss)
        parameters = model.parameters()
        penalty = torch.stack(
            [
                quadratic_penalties(parameters, each["anchor"], each["fisher"])
                for each in self.state["kept"]
            ]
        ).sum()
        return StepOutput(loss + self.strength * penalty, {"penalty": penalty.detach()})

    def review(self, model: AdaptedModel, batch: Batch) -> Summary:
        """Sums over samples of (d log p(y | x) / d phi)^2, and how many there were."""
        pieces = [self._squared_gradients(model, piece) for piece in batch.chunks(SAMPLES_AT_ONCE)]
        return reduce(Summary.__add__, pieces)

    def _squared_gradients(self, model: AdaptedModel, batch: Batch) -> Summary:
        gradients = per_sample_gradients(
            model, batch.inputs, lambda logits: row_losses(logits, batch.labels)
        )
        sums = {name: gradient.square().sum(dim=0) for name, gradient in gradients.items()}
        return Summary(
            {**sums, "count": torch.tensor(float(len(batch)), device=model.backbone.device)}
        )

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """F = mean over the task's samples, phi* <- phi; online F <- gamma F_old + F."""
        assert review is not None
        parameters = model.parameters()
        fisher = {name: review[name] / review["count"].item() for name in parameters}
        anchor = {name: value.detach().clone() for name, value in parameters.items()}
        kept = self.state.get("kept", [])
        if self.online and kept:
            for name, old in kept.pop()["fisher"].items():
                fisher[name][: len(old)] += self.decay * old
        self.state["kept"] = [*kept, {"fisher": fisher, "anchor": anchor}]
