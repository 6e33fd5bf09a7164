"""Parameter isolation: each task has an adapter and a head of its own, over its classes alone; all
others are frozen.

Where answers are tokens, the language model's own head gives them, and a task's head has no rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from lamina.adapters.model import HEAD, AdaptedModel
from lamina.adapters.routing import among, answered_by, said_by
from lamina.core import Task


@dataclass(frozen=True)
class IsolatedModules:
    """The adapter and head that each task has for itself, and how rows are answered with them. The
    common head is not used.

    `classes` below are those of every task so far, in order: a strategy keeps them in its state.
    """

    adapter: str = "task_{}"
    """The name of a task's adapter, by its index."""
    head: str = "head_{}"
    """The name of its head."""

    def names(self, index: int) -> tuple[str, str]:
        """The names of a task's adapter and head."""
        return self.adapter.format(index), self.head.format(index)

    def attach(self, model: AdaptedModel, task: Task) -> None:
        """Freeze what there is, and attach a task's new adapter and new head."""
        adapter, head = self.names(task.index)
        model.freeze(*model.adapters)
        model.add(adapter)
        model.grow_head(len(task.classes), head)

    def own_logits(self, model: AdaptedModel, inputs: Mapping[str, Tensor], index: int) -> Tensor:
        """Logits [N, classes of the task], or [N, A, V] of tokens, of a task's adapter (if the job
        has any) and head."""
        return model(inputs, adapters=self._of(model, index), head=self.names(index)[1]).logits

    def logits(
        self,
        model: AdaptedModel,
        inputs: Mapping[str, Tensor],
        index: int,
        classes: Sequence[Sequence[int]],
    ) -> Tensor:
        """Logits of a task's module over all classes seen so far, [N, classes]; minus infinity for
        classes of other tasks. Where answers are tokens a task has no classes, and these are its
        adapter's logits as they are."""
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

    def generate(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], chosen: Tensor, max_new_tokens: int
    ) -> Tensor:
        """Generate with the module of each row's own task, `chosen` int64 [N]. As
        `Strategy.generate`."""
        return said_by(
            chosen,
            inputs,
            lambda index, own: model.generate(own, max_new_tokens, self._of(model, index)),
        )

    def _of(self, model: AdaptedModel, index: int) -> list[str]:
        """The adapter that is laid over the backbone for a task, if the job has one."""
        adapter, _ = self.names(index)
        return [adapter] if adapter in model.adapters else []
