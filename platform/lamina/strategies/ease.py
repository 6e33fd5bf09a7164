"""EASE (Zhou et al., 2024): an adapter and so a subspace for each task, and prototypes of every
class in every subspace, real or synthesised.

Trained: the current task's adapter, with a cosine classifier over the task's classes and its scale
sigma, both thrown away. Remembered: all adapters, frozen, and class means of the features of each.
An old class has no mean in a newer subspace: it is made from the classes that have one, by their
similarity to it in the subspace where it was learned. At test there is one forward per adapter.
Differs from the paper: as in the released configurations, what is missing is made anew after every
task from all classes with a real mean, not once from the task that brought the subspace; and alpha
is divided by the number of other subspaces, as in the code. The code's bottlenecks read a layer's
tokens before its second norm and drop out 0.1 (`adapter.before_norm: true`, `dropout: 0.1`). A
class that comes again keeps the subspace of its first task, and its means gather all rows that met
the adapter.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters import kind_names
from lamina.adapters.model import HEAD, AdaptedModel
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy

SIGMA = "sigma"


@dataclass
class EASE(Strategy):
    """Cross-entropy of a cosine classifier in the new subspace; then means instead of weights."""

    alpha: float = 0.1
    """What the subspaces of other tasks count, together, beside the class's own."""

    family = "adapter"
    paper = "Expandable Subspace Ensemble for Pre-Trained Model-Based Class-Incremental Learning"
    year = 2024
    classes_only = "it answers with the nearest mean of a class"
    adapters = tuple(kind_names())
    grows = True

    def __post_init__(self) -> None:
        check_fields("strategy", self, not_negative=["alpha"])

    def setup(self, model: AdaptedModel) -> None:
        """Nothing yet: every task brings its own."""

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Freeze the last adapter, attach a new one, and start sigma at 1."""
        if task.index > 0:
            model.freeze(subspace(task.index - 1))
        model.add(subspace(task.index))
        model.add_tensors(SIGMA, {"value": torch.ones(1)})

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(sigma cos(f(x; A_t), w), task's classes)."""
        assert batch.task is not None
        features = model(batch.inputs, adapters=[subspace(batch.task.index)]).features
        weight = model.adapters[HEAD].tensors["weight"]
        sigma = model.adapters[SIGMA].tensors["value"]
        logits = sigma * F.normalize(features, dim=1) @ F.normalize(weight, dim=1).T
        return StepOutput(cross_entropy(logits, batch.labels, classes=batch.task.classes))

    def embed(self, model: AdaptedModel, inputs: Mapping[str, Tensor]) -> Tensor:
        """f(x; A_i) for every adapter so far, [N, T, dim]."""
        names = [name for name in model.active if name.startswith(subspace(""))]
        return torch.stack([model(inputs, adapters=[name]).features for name in names], dim=1)

    def review(self, model: AdaptedModel, batch: Batch) -> Summary:
        """Per class: number of rows [C] and sums of their features [C, T, dim] in every subspace
        so far."""
        one_hot = F.one_hot(batch.labels, model.num_classes()).float()
        total = torch.einsum("nc,ntd->ctd", one_hot, self.embed(model, batch.inputs))
        return Summary({"count": one_hot.sum(dim=0), "total": total})

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Real means of the task's classes everywhere, synthesised ones of old classes in the new
        subspace."""
        assert review is not None
        total = review["total"]
        count = review["count"][:, None].expand(total.shape[:2])
        home = torch.where(count[:, 0] > 0, task.index, -1)
        if self.state:
            missing = len(home) - len(self.state["home"])
            count = count + F.pad(self.state["count"], (0, 1, 0, missing))
            total = total + F.pad(self.state["total"], (0, 0, 0, 1, 0, missing))
            old = F.pad(self.state["home"], (0, missing), value=-1)
            home = torch.where(old >= 0, old, home)
        self.state.update(count=count, total=total, home=home)
        means = total / count.clamp_min(1)[:, :, None]
        self.state["prototypes"] = complete(means, count > 0, home)

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """Cosine in the class's own subspace, plus alpha times the mean cosine in the others."""
        home, prototypes = self.state["home"], self.state["prototypes"]
        features = F.normalize(self.embed(model, inputs), dim=2)
        cosine = torch.einsum("ntd,ctd->nct", features, F.normalize(prototypes, dim=2))
        num_tasks = prototypes.shape[1]
        is_own = home[:, None] == torch.arange(num_tasks, device=home.device)
        weight = torch.where(is_own, 1.0, self.alpha / max(num_tasks - 1, 1))
        return (cosine * weight).sum(dim=2).masked_fill(home < 0, float("-inf"))


def subspace(task: int | str) -> str:
    """The name of a task's adapter."""
    return f"subspace_{task}"


def complete(means: Tensor, is_real: Tensor, home: Tensor) -> Tensor:
    """Prototypes [C, T, dim] without gaps, from class means [C, T, dim] where `is_real` [C, T].

    p_on = sum_j softmax_j cos(p_oi, p_ji) p_jn, over the classes j with a mean in subspace n; i is
    the subspace `home` [C] of class o (-1: never seen, left out).
    """
    full = means.clone()
    for new in range(means.shape[1]):
        here = is_real[:, new]
        for old in home[~here & (home >= 0)].unique().tolist():
            wanted = ~here & (home == old)
            own = F.normalize(means[:, old], dim=1)
            similarity = (own[wanted] @ own[here].T).softmax(dim=1)
            full[wanted, new] = similarity @ means[here, new]
    return full
