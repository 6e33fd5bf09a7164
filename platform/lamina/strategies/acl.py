"""ACL (Zhang et al., 2023): adapter-based continual learning, each task's head has one class
more, "others", and the head that doubts least answers.

Trained: first the current task's adapter and head, on its rows and on exemplars, which are
"others" to it; then, adapters held, all heads together on a class-balanced mixture, so that their
doubts compare. Remembered: all adapters and heads, and the exemplars with their tasks. Differs from
the authors' code: heads go into the second phase as the first left them (there all but the first
start anew), every head sees every row of a batch (there only if the batch has a row of its task),
a new adapter does not start from the last, and the mixture is balanced by weights, not by dropping
rows of the new classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.adapters import kind_names
from lamina.adapters.isolation import IsolatedModules
from lamina.adapters.model import HEAD, AdaptedModel
from lamina.adapters.routing import among, answered_by
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy

MODULES = IsolatedModules()
OTHERS = -1
"""The label, to a task's head, of a row of another task; its column is the last."""


@dataclass
class ACL(Strategy):
    """Cross-entropy over the task's classes and "others"; then the same, summed over all heads."""

    replay_size: int = 32
    """Exemplars that join each batch."""
    fine_tuning: float = 0.25
    """Length of the second phase, as a share of a task's epochs (50 of 200)."""

    family = "adapter"
    paper = "Adapter Learning in Pretrained Feature Extractor for Continual Learning of Diseases"
    year = 2023
    classes_only = "each head has a class of its own for what is not its task's"
    adapters = tuple(kind_names())
    needs_memory = True
    routes = True
    grows = True

    def __post_init__(self) -> None:
        check_fields("strategy", self, positive=["replay_size", "fine_tuning"])

    def setup(self, model: AdaptedModel) -> None:
        """Nothing yet: every task brings its own."""
        self.state["classes"] = []

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Attach an adapter and a head of one class more. The common head is not used."""
        self.state["classes"].append(list(task.classes))
        adapter, head = MODULES.names(task.index)
        model.add(adapter)
        model.grow_head(len(task.classes) + 1, name=head)
        model.freeze(HEAD)

    def phases(self, task: Task) -> tuple[float, ...]:
        """Learn the task; from the second on, make the heads compare."""
        return (1.0,) if task.index == 0 else (1.0, self.fine_tuning)

    def begin_phase(self, model: AdaptedModel, task: Task, phase: int) -> None:
        """First only the new adapter and head are trained, then only the heads."""
        self.state["phase"] = phase
        for index in range(task.index):
            adapter, head = MODULES.names(index)
            model.freeze(adapter)
            (model.unfreeze if phase == 1 else model.freeze)(head)
        if phase == 1:
            model.freeze(MODULES.names(task.index)[0])

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(head t, y or "others"); in the second phase the sum of that over all heads."""
        assert batch.task is not None
        last = batch.task.index
        exemplars = replay.draw(self.replay_size)
        weights = self.weights(len(batch), 0 if exemplars is None else len(exemplars))
        tasks = torch.full_like(batch.labels, last)
        if exemplars is not None:
            tasks = torch.cat([tasks, exemplars.extras["task"]])
            batch = Batch.cat([batch, exemplars])
        losses = []
        for index in range(0 if self.state["phase"] == 1 else last, last + 1):
            logits = MODULES.own_logits(model, batch.inputs, index)
            labels = torch.where(tasks == index, batch.labels, OTHERS)
            columns = (*self.state["classes"][index], OTHERS)
            each = cross_entropy(logits, labels, reduction="none", columns=columns)
            losses.append((each * weights.to(each)).sum())
        return StepOutput(torch.stack(losses).sum())

    def weights(self, num_new: int, num_old: int) -> Tensor:
        """What rows of the task and exemplars after them count, [num_new + num_old]: in the first
        phase alike, in the second so that every class, old or new, counts the same."""
        if self.state["phase"] == 0 or num_old == 0:
            return torch.full((num_new + num_old,), 1 / (num_new + num_old))
        *old, new = [len(classes) for classes in self.state["classes"]]
        shares = torch.tensor([new / num_new] * num_new + [sum(old) / num_old] * num_old)
        return shares / shares.sum()

    def annotate(self, model: AdaptedModel, batch: Batch) -> Mapping[str, Tensor]:
        """An exemplar's task: with classes that recur, its label does not tell."""
        assert batch.task is not None
        return {"task": torch.full_like(batch.labels, batch.task.index)}

    def chances(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], index: int
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of one head: of its classes [N, C_t], and of "others" [N]."""
        chances = MODULES.own_logits(model, inputs, index).log_softmax(dim=1)
        return chances[:, :-1], chances[:, -1]

    def route(self, model: AdaptedModel, inputs: Mapping[str, Tensor]) -> Tensor:
        """The head with the smallest probability of "others"."""
        indices = range(len(self.state["classes"]))
        others = [self.chances(model, inputs, index)[1] for index in indices]
        return torch.stack(others, dim=1).argmin(dim=1)

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """What the routed head says of its classes, -inf for all others."""
        if task is None:
            chosen = self.route(model, inputs)
        else:
            chosen = torch.full((len(next(iter(inputs.values()))),), task.index)

        def answer(index: int, rows: Mapping[str, Tensor]) -> Tensor:
            known, _ = self.chances(model, rows, index)
            return among(known, self.state["classes"][index], model.num_classes())

        return answered_by(chosen, inputs, answer)
