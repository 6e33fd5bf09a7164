"""GEM (Lopez-Paz and Ranzato, 2017): a step may not raise the loss on any past task's exemplars, to
first order.

Trained: the job's adapter and the head. Remembered: the exemplars of the job's memory, each with
its task. The gradient is projected before the optimiser takes it, so the promise holds for a step
of SGD; an optimiser with momentum or per-element scaling only starts from the projected gradient.
Differs from the paper: exemplars are drawn for each step where the memory is larger than
`replay_size`, and are of the job's policy instead of each task's last rows. The margin is added to
the solution, as the paper has it; the authors' code bounds the solution by it from below. On
streams whose tasks share their classes it is 0 by default: 0.5 of every past task's gradient is
then replay of a few rows (0.544 with it and 0.674 without on the topics of `tweets`). Of several
data-parallel workers, a past task's gradient is the mean of theirs, each on its own exemplars.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.adapters.base import Tensors
from lamina.adapters.model import AdaptedModel
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.descent import inner, plus
from lamina.losses import cross_entropy, row_losses
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy

OF_NEW_CLASSES = 0.5
"""The paper's margin."""


@dataclass
class GEM(Strategy):
    """Cross-entropy on the batch; its gradient is moved to the nearest that no past task speaks
    against."""

    replay_size: int = 200
    """Exemplars drawn for each step, of all past tasks together; a memory of this size or less is
    used whole, as in the paper."""
    margin: float | None = None
    """gamma, added to the weight of every past task's gradient, for backward transfer. Default: the
    paper's 0.5 while tasks bring classes of their own, and 0 from the first task on that shows only
    classes of earlier ones (domain-incremental streams)."""

    family = "replay"
    paper = "Gradient Episodic Memory for Continual Learning"
    year = 2017
    answers = ("classes", "tokens")
    needs_memory = True
    from_second_task = ("replay_size", "margin")

    def __post_init__(self) -> None:
        check_fields("strategy", self, not_negative=["margin"], positive=["replay_size"])

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Every task before this one has a constraint; whether it brings classes of its own says
        what the margin is by default."""
        known = set(self.state.get("classes", []))
        self.state.update(
            num_past=task.index,
            classes=sorted(known.union(task.classes)),
            brings_classes=not known.issuperset(task.classes),
        )

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(f(x), y) on the batch; one reference per past task, the mean of -log p(y | x) over
        its exemplars (where answers are tokens, the sum over those of y)."""
        loss = cross_entropy(model(batch.inputs).logits, batch.labels)
        exemplars = replay.draw(self.replay_size)
        if exemplars is None:
            return StepOutput(loss)
        losses = row_losses(model(exemplars.inputs).logits, exemplars.labels)
        # A past task without a row in this draw keeps its place, with a gradient of zero.
        references = []
        for past in range(self.state["num_past"]):
            mine = (exemplars.extras["task"] == past).to(losses.dtype)
            references.append((losses * mine).sum() / mine.sum().clamp_min(1))
        return StepOutput(loss, references=references)

    def annotate(self, model: AdaptedModel, batch: Batch) -> Mapping[str, Tensor]:
        """The index of the task that an exemplar comes from."""
        assert batch.task is not None
        return {"task": torch.full((len(batch),), batch.task.index)}

    def adjust(
        self, model: AdaptedModel, gradients: Tensors, references: Sequence[Tensors]
    ) -> Tensors:
        """Where some g . g_k < 0: g + sum_k (v_k + gamma) g_k, with v of the dual (eq. 11)."""
        agreement = [inner(gradients, each) for each in references]
        if all(each >= 0 for each in agreement):
            return gradients
        gram = torch.stack(
            [torch.stack([inner(one, other) for other in references]) for one in references]
        )
        default = OF_NEW_CLASSES if self.state["brings_classes"] else 0.0
        margin = default if self.margin is None else self.margin
        # A handful of numbers, and a loop that looks at each: on the CPU.
        weights = nonnegative_minimum(gram.cpu(), torch.stack(agreement).cpu()) + margin
        return plus(gradients, references, weights.tolist())


def nonnegative_minimum(p: Tensor, q: Tensor) -> Tensor:
    """The v >= 0 that minimises v^T P v / 2 + q^T v, float64 [t]; P [t, t] is positive
    semi-definite and q in its range.

    Exact after finitely many steps: the active-set method of Lawson and Hanson (1974). Variables
    become free one by one, the most promising first; the minimum over the free ones is approached
    until one of them meets its bound.
    """
    v = torch.zeros_like(q)
    free = torch.zeros(len(q), dtype=torch.bool, device=q.device)
    tolerance = 1e-10 * max(float(q.abs().max()), float(p.abs().max()), 1e-300)
    for _ in range(3 * len(q)):
        slope = -(p @ v + q)
        slope[free] = -torch.inf
        if slope.max() <= tolerance:
            break
        free[slope.argmax()] = True
        while True:
            target = torch.zeros_like(v)
            target[free] = torch.linalg.pinv(p[free][:, free], hermitian=True) @ -q[free]
            blocking = free & (target < 0)
            if not blocking.any():
                break
            reach = torch.where(blocking, v / (v - target), torch.inf)
            v = v + reach.min() * (target - v)
            free &= reach > reach.min()
            v[~free] = 0.0
        v = target
    return v
