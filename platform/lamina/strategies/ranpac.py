"""RanPAC (McDonnell et al., 2023): ridge regression on random projections of the features, solved
from sums.

Trained: the job's adapter on the first task only, with a throw-away linear head (phase 1; without
an adapter it is skipped), then frozen. Remembered: Gram matrix [M, M] and class sums [M, classes]
of the projected features, which do not depend on the order of tasks. Differs from the authors'
code: the ridge is chosen on every fifth row of all tasks so far instead of on the current task's;
the validation error comes from the same sums, so it needs no second pass and adds up over workers
and clients.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters.model import MAIN, AdaptedModel
from lamina.core import Batch, StepOutput, Summary, Task, generator_of
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.registry import InputError
from lamina.strategies.base import Strategy

RIDGES = [10.0**exponent for exponent in range(-8, 9)]
HELD_OUT = 5


@dataclass
class RanPAC(Strategy):
    """h = ReLU(f(x) W) with W fixed at random; logits h W_o with W_o = (G + ridge I)^-1 Q."""

    projection: int = 10_000
    """M, width of the random projection."""

    family = "prototype"
    paper = "RanPAC: Random Projections and Pre-trained Models for Continual Learning"
    year = 2023
    trained_tasks = "first"

    def __post_init__(self) -> None:
        if self.projection < 1:
            raise InputError(f"strategy.projection: {self.projection} is not positive")

    def setup(self, model: AdaptedModel) -> None:
        """The job's adapter, and the random projection W ~ N(0, 1) [dim, M]."""
        model.add()
        generator = generator_of(model.seed, "ranpac")
        weight = torch.randn(model.backbone.dim, self.projection, generator=generator)
        self.state["projection"] = weight.to(model.backbone.device)

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """The adapter has learned the first task: now it stays."""
        if task.index == 1 and MAIN in model.adapters:
            model.freeze(MAIN)

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """Phase 1, first task: L = CE(f(x), y)."""
        return StepOutput(cross_entropy(model(batch.inputs).logits, batch.labels))

    def project(self, model: AdaptedModel, inputs: Mapping[str, Tensor]) -> Tensor:
        """h = ReLU(f(x) W), [N, M]."""
        return torch.relu(model(inputs).features @ self.state["projection"])

    def review(self, model: AdaptedModel, batch: Batch) -> Summary:
        """Gram matrices H^T H and class sums H^T Y, of the rows to fit and of the rows held out."""
        projected = self.project(model, batch.inputs)
        one_hot = F.one_hot(batch.labels, model.num_classes()).to(projected.dtype)
        held_out = (batch.ids % HELD_OUT == 0).to(projected.device)
        sums = {}
        for part, rows in (("fit", ~held_out), ("held_out", held_out)):
            h, y = projected[rows], one_hot[rows]
            sums[f"gram_{part}"], sums[f"cross_{part}"] = h.T @ h, h.T @ y
        return Summary(sums)

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Add the sums to those of the past, choose the ridge on the held-out rows, solve on all
        rows."""
        assert review is not None
        for name, value in review.sums.items():
            self.state[name] = _add_classes(value, self.state.get(name))
        fit = (self.state["gram_fit"], self.state["cross_fit"])
        held_out = (self.state["gram_held_out"], self.state["cross_held_out"])
        errors = [squared_error(ridge_solution(*fit, ridge), *held_out) for ridge in RIDGES]
        ridge = RIDGES[int(torch.stack(errors).argmin())]
        gram, cross = (fit[0] + held_out[0]), (fit[1] + held_out[1])
        self.state["ridge"] = ridge
        self.state["solution"] = ridge_solution(gram, cross, ridge)

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """h W_o."""
        logits: Tensor = self.project(model, inputs) @ self.state["solution"]
        return logits


def ridge_solution(gram: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """(G + ridge I)^-1 Q in float64, [M, classes] float32; not finite where G + ridge I is
    numerically singular."""
    regularised = gram.double().diagonal_scatter(gram.diagonal().double() + ridge)
    factor, failed = torch.linalg.cholesky_ex(regularised)
    if failed:
        return torch.full_like(cross, float("nan"))
    return torch.cholesky_solve(cross.double(), factor).to(cross.dtype)


def squared_error(solution: Tensor, gram: Tensor, cross: Tensor) -> Tensor:
    """||H W - Y||^2 up to the constant ||Y||^2, from G = H^T H and Q = H^T Y alone.

    Infinite where W is not finite.
    """
    weights = solution.double()
    error = (weights * (gram.double() @ weights - 2 * cross.double())).sum()
    return error.nan_to_num(nan=float("inf"))


def _add_classes(value: Tensor, past: Tensor | None) -> Tensor:
    """Sum of the two, where the past may know fewer classes (columns)."""
    if past is None:
        return value
    return value + F.pad(past, (0, value.shape[1] - past.shape[1]))
