"""ADA (Ermis et al., 2022): adaptive distillation of adapters, a pool of at most K adapters into
which each further task is distilled.

Trained: a new adapter and the head rows of the task; where the pool is full, then one adapter that
imitates both the new one and the pool's most related one, which it replaces. Remembered: K adapters
and which of them answers for which classes. Relatedness is TransRate (Huang et al., 2022) of the
pool's features for the new task, from sums and before anything is trained. Distillation needs no
row of the past: it runs on the task's own. Differs from the paper: it names LEEP as another score,
which needs a second pass over the rows, and distils on a set of unlabelled inputs; teachers are
centred as in deep model consolidation, which it builds on, and the head rows of both move along.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.adapters import kind_names
from lamina.adapters.model import HEAD, AdaptedModel
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy, places
from lamina.memory.gaussian import moments
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy

NEW = "new"
CONSOLIDATED = "consolidated"
TEACHER_HEAD = "teacher_head"


@dataclass
class ADA(Strategy):
    """Cross-entropy over the task's classes; then two teachers, one student."""

    pool_size: int = 4
    """K, adapters kept."""
    distillation: float = 1.0
    """Length of the distillation, as a share of a task's epochs."""

    family = "adapter"
    paper = "Memory Efficient Continual Learning with Transformers"
    year = 2022
    classes_only = "its pool is chosen by how well features tell classes apart"
    scenarios = ("class_incremental", "task_incremental", "joint")
    adapters = tuple(kind_names())

    def __post_init__(self) -> None:
        check_fields("strategy", self, positive=["pool_size", "distillation"])

    def setup(self, model: AdaptedModel) -> None:
        """An empty pool: `classes` will hold those of each adapter in it."""
        self.state["classes"] = []

    def preview(self, model: AdaptedModel, batch: Batch) -> Summary | None:
        """Class-wise moments of the task's features under every adapter of a full pool."""
        assert batch.task is not None
        if len(self.state["classes"]) < self.pool_size:
            return None
        labels = places(batch.labels, batch.task.classes)
        sums = {}
        for slot in range(self.pool_size):
            features = model(batch.inputs, adapters=[pooled(slot)]).features
            for name, value in moments(features, labels, len(batch.task.classes)).items():
                sums[f"{slot}.{name}"] = value
        return Summary(sums)

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Attach a new adapter, and choose its place: a free one, or that of the pool's most
        related."""
        model.add(NEW)
        self.state["is_full"] = preview is not None
        if preview is None:
            self.state["slot"] = len(self.state["classes"])
            self.state["classes"].append([])
        else:
            names = ("count", "total", "outer")
            scores = [
                transrate({name: preview[f"{slot}.{name}"] for name in names})
                for slot in range(self.pool_size)
            ]
            self.state["slot"] = int(torch.stack(scores).argmax())

    def phases(self, task: Task) -> tuple[float, ...]:
        """Learn, and where the pool is full, consolidate."""
        return (1.0, self.distillation) if self.state["is_full"] else (1.0,)

    def begin_phase(self, model: AdaptedModel, task: Task, phase: int) -> None:
        """The teachers stay, the student appears."""
        if phase == 1:
            model.freeze(NEW)
            model.copy(HEAD, TEACHER_HEAD)
            model.add(CONSOLIDATED)

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(new adapter, task's classes), or the distillation of both teachers."""
        assert batch.task is not None
        if CONSOLIDATED in model.adapters:
            return StepOutput(self.double_distillation(model, batch, batch.task))
        logits = model(batch.inputs, adapters=[NEW]).logits
        return StepOutput(cross_entropy(logits, batch.labels, classes=batch.task.classes))

    def double_distillation(self, model: AdaptedModel, batch: Batch, task: Task) -> Tensor:
        """Mean square of student - (centred logits of the old classes' teacher, centred logits of
        the new classes' teacher)."""
        slot = self.state["slot"]
        new = list(task.classes)
        old = [each for each in self.state["classes"][slot] if each not in new]
        with torch.no_grad():
            logits = [
                model(batch.inputs, [adapter], TEACHER_HEAD).logits[:, classes]
                for adapter, classes in ((pooled(slot), old), (NEW, new))
            ]
            target = torch.cat([each - each.mean(dim=1, keepdim=True) for each in logits], dim=1)
        student = model(batch.inputs, [CONSOLIDATED]).logits[:, old + new]
        return (student - target).square().mean()

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Put the new or the consolidated adapter in its place. Classes that came again move
        there."""
        slot = self.state["slot"]
        model.copy(CONSOLIDATED if CONSOLIDATED in model.adapters else NEW, pooled(slot))
        for name in (NEW, CONSOLIDATED, TEACHER_HEAD):
            if name in model.adapters:
                model.remove(name)
        for classes in self.state["classes"]:
            classes[:] = [each for each in classes if each not in task.classes]
        self.state["classes"][slot] += task.classes

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """Every class by the adapter that answers for it."""
        logits_by_slot = {
            slot: model(inputs, adapters=[pooled(slot)]).logits
            for slot in range(len(self.state["classes"]))
        }
        logits = torch.full_like(logits_by_slot[0], float("-inf"))
        for slot, classes in enumerate(self.state["classes"]):
            logits[:, classes] = logits_by_slot[slot][:, classes]
        return logits


def pooled(slot: int) -> str:
    """The name of an adapter of the pool."""
    return f"pool_{slot}"


def transrate(sums: Mapping[str, Tensor], epsilon: float = 1e-4) -> Tensor:
    """TransRate (Huang et al., 2022): R(Z) - R(Z | Y) of centred features Z, from the sums of
    `moments`: how much of the features' coding rate the labels explain.

    `epsilon` is the distortion of its authors' code. Classes weigh by their rows.
    """
    count, total, outer = (sums[name].double() for name in ("count", "total", "outer"))
    mean = total.sum(dim=0) / count.sum()
    cross = torch.einsum("cd,e->cde", total, mean)
    scatter = outer - cross - cross.mT + torch.einsum("c,d,e->cde", count, mean, mean)
    within = count / count.sum() * _coding_rate(scatter, count.clamp_min(1), epsilon)
    return _coding_rate(scatter.sum(dim=0), count.sum(), epsilon) - within.sum()


def _coding_rate(scatter: Tensor, count: Tensor, epsilon: float) -> Tensor:
    """1/2 log det(I + Z^T Z / (n epsilon)), of Z^T Z [..., d, d] and n [...]."""
    eye = torch.eye(scatter.shape[-1], dtype=scatter.dtype, device=scatter.device)
    return torch.logdet(eye + scatter / (count * epsilon)[..., None, None]) / 2
