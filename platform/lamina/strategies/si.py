"""SI (Zenke et al., 2017): synaptic intelligence, parameters that did much to lower earlier losses
are held.

Trained: the job's adapter and the head. Remembered: one importance and one anchor of the trained
tensors. A parameter's part in the fall of the task's loss is summed along its path, step by step,
with the way that the optimiser really went; much public code puts learning rate times squared
gradient there, penalty included, which is another quantity. Importance below zero is cut off, as in
the authors' code; the paper does not say.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters.base import Tensors
from lamina.adapters.model import AdaptedModel
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy, quadratic_penalties
from lamina.memory.memory import Replay
from lamina.registry import only_where
from lamina.strategies.base import Strategy


@dataclass
class SI(Strategy):
    """Cross-entropy with a quadratic pull towards the last task's solution, weighted by each
    parameter's part in the losses that fell."""

    strength: float = 1.0
    """c, the weight of the penalty; 1 gives old and new losses the same weight."""
    damping: float = 1e-3
    """xi, keeps the importance of a parameter that hardly moved finite."""

    family = "regularisation"
    paper = "Continual Learning Through Synaptic Intelligence"
    year = 2017
    answers = ("classes", "tokens")
    matters_when = only_where(damping="strength")
    from_second_task = ("strength",)

    def __post_init__(self) -> None:
        check_fields("strategy", self, not_negative=["strength"], positive=["damping"])

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Where the path starts: phi(t-1), with the new rows of the head as they are."""
        values = _values(model)
        self.state["start"] = values
        self.state["path"] = {name: torch.zeros_like(value) for name, value in values.items()}

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(f(x), y) + c * sum_j Omega_j (phi_j - phi*_j)^2 (eq. 4)."""
        loss = cross_entropy(model(batch.inputs).logits, batch.labels)
        if "importance" not in self.state:
            return StepOutput(loss)
        penalty = quadratic_penalties(
            model.parameters(), self.state["anchor"], self.state["importance"]
        )
        return StepOutput(loss + self.strength * penalty, {"penalty": penalty.detach()})

    def adjust(
        self, model: AdaptedModel, gradients: Tensors, references: Sequence[Tensors]
    ) -> Tensors:
        """The gradients as they are; that of the task's loss alone waits for the step's end."""
        values = _values(model)
        self.state["before"] = values
        self.state["gradient"] = {
            name: gradient - self._pull(name, values[name]) for name, gradient in gradients.items()
        }
        return gradients

    def _pull(self, name: str, value: Tensor) -> Tensor:
        """The gradient of the penalty: 2 c Omega (phi - phi*), zero in rows that have no anchor."""
        if "importance" not in self.state:
            return torch.zeros_like(value)
        anchor = self.state["anchor"][name]
        importance = self.state["importance"][name]
        pull = 2 * self.strength * importance * (value[: len(anchor)] - anchor)
        return _with_rows(pull, len(value))

    def after_step(self, model: AdaptedModel, seen: Summary | None) -> None:
        """omega_j <- omega_j - g_j (phi_j after - phi_j before) (eq. 3)."""
        before = self.state.pop("before")
        gradients = self.state.pop("gradient")
        values = _values(model)
        for name, gradient in gradients.items():
            self.state["path"][name] -= gradient * (values[name] - before[name])

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Omega_j <- max(0, Omega_j + omega_j / ((phi_j - phi_j at the start)^2 + xi)), phi* <- phi
        (eq. 5)."""
        values = _values(model)
        start = self.state.pop("start")
        path = self.state.pop("path")
        past = self.state.get("importance", {})
        importance = {}
        for name, value in values.items():
            gained = path[name] / ((value - start[name]).square() + self.damping)
            if name in past:
                gained += _with_rows(past[name], len(value))
            importance[name] = gained.clamp_min(0)
        self.state["importance"] = importance
        self.state["anchor"] = values


def _values(model: AdaptedModel) -> dict[str, Tensor]:
    """A copy of what is trained."""
    return {name: value.detach().clone() for name, value in model.parameters().items()}


def _with_rows(tensor: Tensor, number: int) -> Tensor:
    """With rows of zeros, up to this number."""
    return F.pad(tensor, (0, 0) * (tensor.dim() - 1) + (0, number - len(tensor)))
