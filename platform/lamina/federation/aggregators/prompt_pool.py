"""PromptPool (after Fed-CPrompt, Bagwe et al., 2023): prompts, or any other adapter, are averaged
task by task, so that clients may be at different tasks in one round.

Sent: all that is trained, with the task's key as the update's `phase`. Kept at the client: nothing.
The global state holds a copy of every tensor per task key, `<key>/<name>`, made when a task is
first seen, and what is shared (the head) once. A client at a task starts from that task's copy, and
a row is answered with its task's, so it has to come with its task (task-incremental streams).
Differs from the paper: its contrastive loss belongs to the strategy, not to the aggregator, and it
finds the task of a row by the prompts' keys.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from lamina.federation.aggregators.base import LinearAggregator, Sums, mean_of, mean_share
from lamina.federation.state import GlobalState
from lamina.federation.update import ClientUpdate, Tensors


@dataclass(frozen=True)
class PromptPool(LinearAggregator):
    """x^t = sum w_i x_i / sum w_i over the clients at task t."""

    shared: tuple[str, ...] = ("head",)
    """Adapters and heads that all tasks have in common. A head's rows are the classes of the whole
    stream, so clients of other tasks do not stand in each other's way."""

    by_task: ClassVar[bool] = True

    def starting_tensors(
        self,
        state: GlobalState,
        own: Tensors | None = None,
        rank: int | None = None,
        task_key: str | None = None,
    ) -> dict[str, Tensor]:
        """The tensors of a task, or the first ones where nobody has trained it yet."""
        assert task_key is not None, "a prompt pool has tensors for each task"
        tensors = {
            name: state.tensors.get(self.key(name, task_key), tensor)
            for name, tensor in state.tensors.items()
            if "/" not in name
        }
        return {**tensors, **(own or {})}

    def sends(self, round: int, name: str) -> bool:
        """The tensors that a client trains at a task, without the stored copies of any task."""
        return "/" not in name and super().sends(round, name)

    def after_boundary(
        self, state: GlobalState, tensors: Tensors, task_key: str | None = None
    ) -> GlobalState:
        """The task's copies as they are now, beside those of other tasks; the first values of what
        is new stay as every later task's."""
        assert task_key is not None, "a prompt pool has tensors for each task"
        copies = {name: each for name, each in state.tensors.items() if "/" in name}
        first = {name: state.tensors.get(name, each) for name, each in tensors.items()}
        own = {self.key(name, task_key): each for name, each in tensors.items()}
        return replace(state, tensors={**copies, **first, **own})

    def share(self, state: GlobalState, update: ClientUpdate) -> Sums:
        """The summand of an update, as for the mean, under the names of its task."""
        keyed = {self.key(name, update.phase): x for name, x in update.tensors.items()}
        return mean_share(keyed, self.weight(update))

    def finish(self, state: GlobalState, sums: Sums) -> GlobalState:
        """The means; a task's rows that nobody sent are as the first ones."""
        names = {name for name in sums if not name.startswith("weight:")}
        before = {
            name: state.tensors.get(name, state.tensors[name.split("/", 1)[-1]]) for name in names
        }
        return replace(state, tensors={**state.tensors, **mean_of(sums, before)})

    def key(self, name: str, task_key: str) -> str:
        """Under which the global state holds a task's copy of a tensor."""
        return name if name.partition(".")[0] in self.shared else f"{task_key}/{name}"
