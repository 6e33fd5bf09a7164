"""What a strategy is. The loop that calls it, in full:

    strategy.setup(model)                                   # once
    for task in stream:
        model.grow_head(...)                                # classes of the task appear
        strategy.begin_task(model, task, preview)           # preview = sum of
        strategy.preview(model, batch)
        for epoch in range(epochs):                         # where strategy.trained_tasks says so
            for batch in task.train:
                output = strategy.step(model, batch, replay)
                output.loss.backward(); optimiser.step()
                strategy.after_step(model)
        strategy.end_task(model, task, review)              # review = sum of strategy.review(model,
        batch)
        memory.offer(task.train)
        evaluate(strategy.predict)

A strategy returns a loss and does nothing else with it: it never calls backward, steps an
optimiser, logs, moves a device, knows a rank or touches a file. So the same code runs alone, packed
with other trials, data parallel or federated.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor

from lamina.adapters.model import AdaptedModel
from lamina.core import Batch, Modality, Scenario, StepOutput, Summary, Task
from lamina.memory.memory import Replay

Family = Literal[
    "baseline", "regularisation", "replay", "prompt", "lora", "prototype", "adapter", "merging"
]
NO_ADAPTER = "none"
"""How `adapters` says that a job without an adapter is fine."""


@dataclass
class Strategy(ABC):
    """A continual-learning method. Its fields are the paper's hyper-parameters; its tensors live in
    `state`.

    The module's docstring is its card: `Name (Authors, year): one sentence.`, what is trained, what
    is remembered, how it differs from the paper.
    """

    family: ClassVar[Family]
    """Where a survey would put it."""
    paper: ClassVar[str]
    """Title of the paper, or of what it is known from."""
    year: ClassVar[int]
    """Of publication."""
    scenarios: ClassVar[tuple[Scenario, ...]] = (
        "class_incremental",
        "task_incremental",
        "domain_incremental",
        "joint",
    )
    """Where it can be used."""
    adapters: ClassVar[tuple[str, ...] | None] = None
    """Adapter kinds it can train (`none`: without any). None: every kind, and none."""
    modalities: ClassVar[tuple[Modality, ...]] = ("text", "image")
    """What its backbone may read."""
    needs_memory: ClassVar[bool] = False
    """Whether a job must give it a replay memory; others draw from none."""
    trained_tasks: ClassVar[Literal["all", "first", "none"]] = "all"
    """On which tasks it takes gradient steps. `first` only trains an adapter, so without one it
    trains nothing."""
    data: ClassVar[Literal["current", "all"]] = "current"
    """What a task's training sees. `all` is the bound that continual learning is measured against,
    and no method."""

    state: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """All that it remembers between tasks: tensors, numbers, and lists and dicts of them."""

    @classmethod
    def takes_gradient_steps(cls, has_adapter: bool) -> bool:
        """Whether training settings matter to it."""
        return cls.trained_tasks == "all" or (cls.trained_tasks == "first" and has_adapter)

    def setup(self, model: AdaptedModel) -> None:
        """Once, before the first task. Default: attach one adapter of the job's kind, shared by all
        tasks."""
        model.add()

    def preview(self, model: AdaptedModel, batch: Batch) -> Summary | None:
        """What it must know of a task before learning it, summed over the training part. Default:
        nothing."""
        return None

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Before a task: add an adapter, freeze the old, keep a teacher. Default: nothing."""
        return

    @abstractmethod
    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """The loss of the paper on one batch."""

    def after_step(self, model: AdaptedModel) -> None:
        """After each step of the optimiser: a moving average, a projection. Default: nothing."""
        return

    def review(self, model: AdaptedModel, batch: Batch) -> Summary | None:
        """What it must know of a task after learning it, summed over the training part. Default:
        nothing."""
        return None

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """After a task: solve, merge, consolidate. Default: nothing."""
        return

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """Logits [N, classes seen so far] of N inputs, each row's by itself: never dependent on the
        rest of the batch.

        `task` is given in task-incremental streams only.
        """
        return model(inputs).logits
