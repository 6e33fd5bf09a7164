"""What a strategy is. The loop that calls it, in full:

    strategy.setup(model)                                        # once
    for task in stream:
        model.grow_head(...)                                     # the task's new classes appear
        strategy.begin_task(model, task, preview)                # preview: strategy.preview(model,
        for phase, share in enumerate(strategy.phases(task)):    #   batch) summed over task.train
            strategy.begin_phase(model, task, phase)
            optimiser = ...                                      # anew, over model.parameters()
            for epoch in range(share * epochs):                  # where strategy.trained_tasks says
            so
                for batch in task.train:
                    output = strategy.step(model, batch, replay)
                    gradients = d output.loss; references = [d each for each in output.references]
                    optimiser.step(strategy.adjust(model, gradients, references))
                    strategy.after_step(model, output.seen)
        strategy.end_task(model, task, review)                   # review: as preview
        memory.offer(task.train)                                 # kept with strategy.annotate(...)
                                                                 # (or by batch, see `entry`)
        evaluate(strategy.predict, strategy.route)

A task-free stream has no boundary: there, `setup`, `step`, `adjust`, `after_step`, `annotate` and
`predict` are all that is called, `batch.task` is None, the head has a row for every class from the
start, the optimiser lives as long as the stream, and exemplars are offered after each step.

A strategy returns a loss and does nothing else with it: it never calls backward, steps an
optimiser, logs, moves a device, knows a rank or touches a file. So the same code runs alone, packed
with other trials, data parallel or federated. (Small problems on tensors that are already in hand,
as refitting a head on Gaussian features when a task ends, are `lamina.descent`'s.)
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor

from lamina.adapters.base import Tensors
from lamina.adapters.model import AdaptedModel
from lamina.backbones.decoding import decoded_by
from lamina.core import AnswerKind, Batch, Modality, Scenario, StepOutput, Summary, Task
from lamina.memory.base import Entry
from lamina.memory.memory import Replay
from lamina.registry import Where

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
    """Where it can be used. `task_free` is for those that need no task boundary."""
    adapters: ClassVar[tuple[str, ...] | None] = None
    """Adapter kinds it can train (`none`: without any). None: every kind, and none."""
    modalities: ClassVar[tuple[Modality, ...]] = ("text", "image")
    """What its backbone may read."""
    answers: ClassVar[tuple[AnswerKind, ...]] = ("classes",)
    """What the answers of its stream may be. `tokens` is for those that ask the model for a
    likelihood and need no class, head or mean of a class."""
    classes_only: ClassVar[str] = ""
    """Why it cannot answer in tokens, as half a sentence; empty where it can."""
    needs_memory: ClassVar[bool] = False
    """Whether a job must give it a replay memory; others draw from none."""
    entry: ClassVar[Entry] = "task_end"
    """When rows enter the memory, where the job does not say (`memory.entry`) and the stream has
    tasks. In a task-free or online stream they always enter as they pass."""
    trained_tasks: ClassVar[Literal["all", "first", "none"]] = "all"
    """On which tasks it takes gradient steps. `first` only trains an adapter, so without one it
    trains nothing."""
    data: ClassVar[Literal["current", "all"]] = "current"
    """What a task's training sees. `all` is the bound that continual learning is measured against,
    and no method."""

    from_second_task: ClassVar[tuple[str, ...]] = ()
    """Hyper-parameters that change nothing before the second task begins, neither what is learned
    nor what is remembered: trials that differ in these alone share their first task. Those of a
    strategy with a memory assume that it is empty until then (entry `task_end`)."""
    matters_when: ClassVar[Mapping[str, Where]] = {}
    """Hyper-parameters that change nothing beside some values of another one:
    `only_where(decay="online")`."""
    of_head: ClassVar[tuple[str, ...]] = ()
    """Hyper-parameters that change nothing where answers are tokens, and no head is trained."""
    routes: ClassVar[bool] = False
    """Whether it decides for each input which task's module answers: `route` tells which."""
    grows: ClassVar[bool] = False
    """Whether later tasks train tensors, by name, that the first does not."""
    summary_rows: ClassVar[bool] = False
    """Whether `preview` or `review` keep values of single rows (`Summary.rows`). They may not leave
    a federated client, so such a strategy is refused in a federation."""

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

    def phases(self, task: Task) -> tuple[float, ...]:
        """The passes over a task that differ in what is trained, as shares of the job's epochs,
        each with an optimiser of its own. Default: one phase of all epochs.
        """
        return (1.0,)

    def begin_phase(self, model: AdaptedModel, task: Task, phase: int) -> None:
        """Before a phase: freeze and unfreeze. Default: nothing."""
        return

    def rate(self, name: str) -> float:
        """A factor on the job's learning rate for a trained tensor, by its name in
        `model.parameters()` (`main.encoder...`, `head.weight`). Default: 1."""
        return 1.0

    @abstractmethod
    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """The loss of the paper on one batch."""

    def adjust(
        self, model: AdaptedModel, gradients: Tensors, references: Sequence[Tensors]
    ) -> Tensors:
        """The gradients that the optimiser takes, by the names of `model.parameters()`: a
        projection.

        `references` are the gradients of the step's reference losses, in order. Default: as they
        are.
        """
        return gradients

    def after_step(self, model: AdaptedModel, seen: Summary | None) -> None:
        """After each step of the optimiser: a moving average, a running statistic. Default:
        nothing."""
        return

    def review(self, model: AdaptedModel, batch: Batch) -> Summary | None:
        """What it must know of a task after learning it, summed over the training part. Default:
        nothing."""
        return None

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """After a task: solve, merge, consolidate. Default: nothing."""
        return

    def annotate(self, model: AdaptedModel, batch: Batch) -> Mapping[str, Tensor]:
        """What is kept beside these new exemplars, each [n, ...] (their logits now, say); they come
        back as `extras` of a draw. Where widths differ, the narrower get NaN on the right. Default:
        nothing."""
        return {}

    def route(self, model: AdaptedModel, inputs: Mapping[str, Tensor]) -> Tensor:
        """The index of the task whose module answers each input, int64 [N]; where `routes`."""
        raise NotImplementedError(f"{type(self).__name__} does not route")

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """Logits [N, classes seen so far] of N inputs, each row's by itself: never dependent on the
        rest of the batch.

        `task` is given in task-incremental streams only.
        """
        return model(inputs).logits

    def generate(
        self,
        model: AdaptedModel,
        inputs: Mapping[str, Tensor],
        task: Task | None,
        max_new_tokens: int,
    ) -> Tensor:
        """Generate tokens behind the prompts of N inputs, where answers are tokens: int64 [N, L],
        L <= `max_new_tokens`. Each is the likeliest by `predict` when those before it are given;
        IGNORED follows the end token.

        `task` as in `predict`. Default: with keys and values kept where `predict` is the default
        too; else all tokens are read again for each that is generated, which is slow.
        """
        if type(self).predict is Strategy.predict:
            return model.generate(inputs, max_new_tokens)
        end = model.backbone.inputs.end_token
        return decoded_by(
            lambda rows: self.predict(model, rows, task),
            inputs,
            max_new_tokens=max_new_tokens,
            end=end,
        )
