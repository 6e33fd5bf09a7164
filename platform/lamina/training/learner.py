"""A learner: one trial on one stream, task by task. The loop that every strategy is written for."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from lamina.adapters.base import AdapterKind
from lamina.adapters.model import AdaptedModel
from lamina.backbones.backbone import Backbone
from lamina.core import Batch, Experience, Stream, Summary, Task, generator_of
from lamina.losses import balanced_weights
from lamina.memory.base import Policy
from lamina.memory.memory import Memory, Replay
from lamina.strategies.base import Strategy
from lamina.training.finite import check_losses, check_tensors, naming
from lamina.training.midway import Midway
from lamina.training.notes import notes_of
from lamina.training.report import TaskReport
from lamina.training.rows_by_id import RowsById
from lamina.training.scorecard import Scorecard
from lamina.training.settings import TrainingSettings
from lamina.training.stepper import Stepper
from lamina.training.workers import Alone, Workers, added, part_of, share_of


class Learner:
    """Everything that one trial owns: a strategy, an adapted model on a shared backbone, a memory,
    two accuracy matrices.

    Its result depends on its arguments and on nothing else: every draw is seeded by name, so it is
    the same alone, on any host, and after `load_state_dict` at any task boundary, or within a task
    where it was asked for its state by `on_checkpoint`.
    """

    def __init__(
        self,
        *,
        strategy: Strategy,
        adapter: AdapterKind | None,
        memory: Policy | None,
        training: TrainingSettings,
        seed: int,
        stream: Stream[Batch],
        backbone: Backbone,
        workers: Workers | None = None,
    ) -> None:
        self.strategy = strategy
        self.training = training
        self.seed = seed
        self.stream = stream
        self.model = AdaptedModel(backbone, adapter, seed)
        self.memory = Memory(memory, seed) if memory is not None else None
        entry = (None if memory is None else memory.entry) or strategy.entry
        self._enters_as_it_passes = stream.one_pass or entry == "as_they_pass"
        self.workers = workers or Alone()
        self.next_task = 0
        self.num_steps = 0
        self.scores = Scorecard(strategy, self.model, stream, training)
        self.rows = RowsById(stream)
        self._is_task_free = stream.scenario == "task_free"
        if self._is_task_free:
            self.model.grow_head(len(stream.class_names))
        self.strategy.setup(self.model)
        self._stepper: Stepper | None = None
        self.checkpoint_steps: int | None = None
        """`on_checkpoint` is called every so many steps; None: never."""
        self.on_checkpoint: Callable[[], None] = lambda: None
        self._midway: Midway | None = None
        """The point within a task that it stands at: while `on_checkpoint` is called, and after a
        state was loaded, until it goes on from there."""

    def learn(self) -> Iterator[TaskReport]:
        """Train the tasks that are left, one for each report.

        Raises NotFiniteError where a loss, a tensor or a logit became NaN or infinite, before
        anything is reported of that task.
        """
        if self.strategy.data == "all":
            self._wait_for_last_task()
        while self.next_task < len(self.stream):
            task = self.stream.experiences[self.next_task].task
            with naming(f"task {task.index + 1} ({task.name})", self.training.learning_rate):
                report = self.train_task()
            yield report

    def train_task(self) -> TaskReport:
        """Train the next task, and evaluate."""
        experience = self.stream.experiences[self.next_task]
        if self._midway is None:
            self.scores.before_task(self.next_task)
        with self.scores.timed("train"):
            loss = self._train(experience)
            check_tensors({n: a.tensors for n, a in self.model.adapters.items()}, "the tensor")
            check_tensors(self.strategy.state, "what the strategy remembers as")
        kept = self.memory.num_bytes(self.rows) if self.memory else 0
        self.scores.close_task(self.next_task, kept)
        with self.scores.timed("evaluation"):
            self.scores.evaluate(self.next_task)
        self.next_task += 1
        return self._report(experience.task, loss)

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on as if nothing had happened; at a task boundary, or from
        `on_checkpoint`."""
        return {
            "next_task": self.next_task,
            "num_steps": self.num_steps,
            "model": self.model.state_dict(),
            "strategy": self.strategy.state,
            "memory": self.memory.state_dict() if self.memory is not None else None,
            "scores": self.scores.state_dict(),
            "stepper": self._stepper.state_dict() if self._stepper is not None else None,
            "midway": self._midway.plain() if self._midway is not None else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.next_task = state["next_task"]
        self.num_steps = state["num_steps"]
        self.model.load_state_dict(state["model"])
        self.strategy.state = to_device(state["strategy"], self.model.backbone.device)
        if self.memory is not None:
            self.memory.load_state_dict(state["memory"])
        self.scores.load_state_dict(state["scores"])
        if state["stepper"] is not None:
            self._stepper = self.new_stepper(self._num_steps_of_stream())
            self._stepper.load_state_dict(to_device(state["stepper"], self.model.backbone.device))
        midway = state.get("midway")
        self._midway = None if midway is None else Midway.of(midway)

    def _train(self, experience: Experience[Batch]) -> float | None:
        """One task, from its preview to the memory. Returns the mean loss of its last epoch, where
        there was one."""
        begins = self._midway is None
        if begins:
            self.scores.costs.train_flops.append(0.0)
        if self._is_task_free:
            return self._stream_through(experience.train)
        data = experience.train
        if self.strategy.data == "all":
            data = Batch.cat([each.train for each in self.stream.experiences])
        strategy, task = self.strategy, experience.task
        by_length = data.by_length()
        if begins:
            classes = (max(each.task.classes, default=-1) for each in self._so_far())
            self.model.grow_head(1 + max(classes))
            strategy.begin_task(self.model, task, self.summarise(strategy.preview, by_length))
        loss = self.descend(task, data) if self._takes_steps(task) else None
        strategy.end_task(self.model, task, self.summarise(strategy.review, by_length))
        if not self._enters_as_it_passes or loss is None:
            self._offer(data)
        return loss

    def descend(self, task: Task, data: Batch) -> float:
        """The phases of a task. Returns the mean loss of the last epoch."""
        settings = self.training
        steps_per_epoch = -(-len(data) // settings.batch_size)
        loss, end, weights = 0.0, 0, self._class_weights(data)
        at = self._start_of(task.index)
        with self.model.dropping(at.dropout):
            for phase, share in enumerate(self.strategy.phases(task)):
                epochs = max(1, round(share * settings.epochs))
                end += epochs
                if at.epoch >= end:
                    continue
                if at.stepper is None:
                    self.strategy.begin_phase(self.model, task, phase)
                stepper = self.new_stepper(epochs * steps_per_epoch, weights)
                if at.stepper is not None:
                    stepper.load_state_dict(to_device(at.stepper, self.model.backbone.device))
                for epoch in range(max(at.epoch, end - epochs), end):
                    shuffle = generator_of(self.seed, "order", task.index, epoch)
                    order = torch.randperm(len(data), generator=shuffle)
                    is_first = self._enters_as_it_passes and epoch == 0
                    loss = self._pass_over(data, order, stepper, at, offer=is_first)
                    at = Midway(epoch + 1, at.dropout)
        return loss

    def _start_of(self, task: int) -> Midway:
        """The point from which a task is trained: where it was interrupted, or its beginning."""
        at, self._midway = self._midway, None
        if at is None:
            self.scores.probes.before_task(task, self.scores.measure_now)
            at = Midway(dropout=generator_of(self.seed, "dropout", task))
        return at

    def _stream_through(self, data: Batch) -> float:
        """The rows of a task-free stream in the order in which they come, once; nothing says where
        a task ends. Returns their mean loss."""
        anonymous = replace(data, task=None)
        shuffle = generator_of(self.seed, "order", self.next_task, 0)
        order = torch.randperm(len(data), generator=shuffle)
        if self._stepper is None:
            self._stepper = self.new_stepper(self._num_steps_of_stream())
        at = self._start_of(self.next_task)
        with self.model.dropping(at.dropout):
            return self._pass_over(anonymous, order, self._stepper, at, offer=True)

    def _num_steps_of_stream(self) -> int:
        """Steps of one pass over the stream."""
        sizes = [len(each.train) for each in self.stream.experiences]
        return sum(-(-size // self.training.batch_size) for size in sizes)

    def _class_weights(self, data: Batch) -> Tensor | None:
        """The job's weights for the classes of these rows, on the model's device; None where it
        gives none."""
        if self.training.class_weights is None:
            return None
        assert self.stream.answers == "classes", "the job was refused"
        weights = balanced_weights(data.labels, len(self.stream.class_names))
        return weights.to(self.model.backbone.device)

    def new_stepper(self, num_steps: int, class_weights: Tensor | None = None) -> Stepper:
        stepper = Stepper(
            self.strategy, self.model, self.training, num_steps, self.workers, class_weights
        )
        costs = self.scores.costs
        trained = sum(each.numel() for each in stepper.parameters.values())
        costs.trained_parameters = max(costs.trained_parameters, trained)
        return stepper

    def _pass_over(
        self, data: Batch, order: Tensor, stepper: Stepper, at: Midway, *, offer: bool
    ) -> float:
        """A step for each batch of rows in this order, from where the epoch stands (`at`) on, after
        which the memory is offered the batch if it should `offer`. Returns the mean loss.

        Raises NotFiniteError where a loss, or what was trained, is not finite at the end. It is
        read there only, so that no step waits for the device.
        """
        device = self.model.backbone.device
        total = torch.zeros((), device=device) if at.total is None else at.total.to(device)
        losses = [*at.losses]
        scores, first_step = self.scores, self.num_steps - at.num_batches
        for rows in order.split(self.training.batch_size)[at.num_batches :]:
            batch = data[rows]
            replay = Replay(
                self.memory,
                self.rows,
                self.num_steps,
                device,
                partial(share_of, workers=self.workers),
                partial(part_of, workers=self.workers, device=device),
                len(batch),
            )
            step = partial(stepper.step, batch, replay)
            kind = "step with exemplars" if len(replay) > 0 else "step"
            losses.append(scores.counting(kind, len(rows), step))
            total += losses[-1] * len(rows)
            self.num_steps += 1
            scores.probes.after_step(self.next_task, len(rows), scores.measure_now)
            if offer:
                self._offer(batch)
            if self.checkpoint_steps is not None and self.num_steps % self.checkpoint_steps == 0:
                own = None if stepper is self._stepper else stepper.state_dict()
                done = len(losses)
                self._midway = Midway(at.epoch, at.dropout, done, total, losses, own)
                self.on_checkpoint()
                self._midway = None
        mean = float(total) / len(data)
        if not isfinite(mean):
            check_losses(losses, first_step)
        check_tensors(stepper.parameters, f"after step {self.num_steps} the tensor")
        return mean

    @torch.no_grad()
    def _offer(self, data: Batch) -> None:
        """Let the memory keep what its policy wants of these rows, with the strategy's notes."""
        if self.memory is None:
            return
        notes = notes_of(self.strategy, self.model, self.training.evaluation_batch_size)
        with self.model.dropping(None):
            self.memory.offer(data, notes)

    def _takes_steps(self, task: Task) -> bool:
        strategy = self.strategy
        if not strategy.takes_gradient_steps(has_adapter=self.model.kind is not None):
            return False
        return strategy.trained_tasks == "all" or task.index == 0

    def _so_far(self) -> tuple[Experience[Batch], ...]:
        """The experiences up to the one under way."""
        return self.stream.experiences[: self.next_task + 1]

    def _wait_for_last_task(self) -> None:
        """Leave the rows of the tasks before the last undefined."""
        while self.next_task < len(self.stream) - 1:
            self.scores.skip_task()
            self.next_task += 1

    @torch.no_grad()
    def summarise(
        self, look: Callable[[AdaptedModel, Batch], Summary | None], data: Batch
    ) -> Summary | None:
        """The sum, over batches of the data, of the summaries that a strategy makes of each."""
        total = None
        share = share_of(data, self.workers)
        for batch in share.chunks(self.training.evaluation_batch_size):
            moved = batch.to(self.model.backbone.device)
            summary = self.scores.counting(
                look.__name__, len(batch), partial(look, self.model, moved)
            )
            if summary is None:
                return None
            total = summary if total is None else total + summary
        if total is None:
            return None
        whole = added(total, self.workers)
        check_tensors({**whole.sums, **whole.rows}, "the summary's")
        return whole

    def _report(self, task: Task, loss: float | None) -> TaskReport:
        metrics = self.scores.metrics()
        if loss is not None:
            metrics["train/loss"] = loss
        metrics["cost/memory_exemplars"] = float(len(self.memory) if self.memory else 0)
        rows = {part: matrix.rows[-1] for part, matrix in self.scores.matrices.items()}
        return TaskReport(
            task=task.index,
            task_name=task.name,
            num_tasks=len(self.stream),
            validation=rows["validation"],
            test=rows["test"],
            metrics=metrics,
            done=self.next_task == len(self.stream),
        )


def to_device(state: Any, device: torch.device) -> Any:
    """A nested state, moved to a device."""
    if isinstance(state, torch.Tensor):
        return state.to(device)
    if isinstance(state, Mapping):
        return {key: to_device(each, device) for key, each in state.items()}
    if isinstance(state, list):
        return [to_device(each, device) for each in state]
    return state
