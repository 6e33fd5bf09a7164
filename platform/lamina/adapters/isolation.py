"""Isolation: an adapter and a head for each task, over its classes alone; all others frozen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from lamina.adapters.model import HEAD, AdaptedModel
from lamina.adapters.routing import among, answered_by
from lamina.core import Task


@dataclass(frozen=True)
class IsolatedModules:
    """What each task has for itself in a model, and how it answers. The common head is not used.

    `classes` below are those of every task so far, in order: a strategy keeps them in its state.
    """

    adapter: str = "task_{}"
    """The name of a task's adapter, by its index."""
    head: str = "head_{}"
    """The name of its head."""

    def names(self, index: int) -> tuple[str, str]:
        """Of a task's adapter and of its head."""
        return self.adapter.format(index), self.head.format(index)

    def attach(self, model: AdaptedModel, task: Task) -> None:
        """Freeze what there is, and attach a task's new adapter and new head."""
        adapter, head = self.names(task.index)
        model.freeze(*model.adapters)
        model.add(adapter)
        model.grow_head(len(task.classes), head)

    def own_logits(self, model: AdaptedModel, inputs: Mapping[str, Tensor], index: int) -> Tensor:
        """Logits [N, classes of the task] of a task's adapter (if the job has any) and head."""
        adapter, head = self.names(index)
        adapters = [adapter] if adapter in model.adapters else []
        return model(inputs, adapters=adapters, head=head).logits

    def logits(
        self,
        model: AdaptedModel,
        inputs: Mapping[str, Tensor],
        index: int,
        classes: Sequence[Sequence[int]],
    ) -> Tensor:
        """The same as logits [N, classes seen so far]; impossible for classes of other tasks. Where
        answers are tokens a task has no classes, and its adapter's logits stand."""
        own = self.own_logits(model, inputs, index)
        return among(own, classes[index], model.num_classes(HEAD)) if classes[index] else own

    def answer(
        self,
        model: AdaptedModel,
        inputs: Mapping[str, Tensor],
        chosen: Tensor,
        classes: Sequence[Sequence[int]],
    ) -> Tensor:
        """The logits of each row's own task, `chosen` int64 [N]."""
        return answered_by(
            chosen, inputs, lambda index, own: self.logits(model, own, index, classes)
        )
