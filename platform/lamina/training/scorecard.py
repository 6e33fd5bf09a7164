"""The scorecard of a learner: its accuracy matrices and everything else that is measured of it."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from statistics import fmean
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from lamina.adapters.model import AdaptedModel
from lamina.backbones.operations import counted
from lamina.core import Batch, Part, Stream
from lamina.evaluation.accuracy_matrix import AccuracyMatrix
from lamina.evaluation.answers import Answers, AnyAnswers, of_plain
from lamina.evaluation.classification import macro_f1_of
from lamina.evaluation.continual_score import continual_score, criteria
from lamina.evaluation.drift import drift
from lamina.evaluation.measures import measure_of
from lamina.strategies.base import Strategy
from lamina.training.costs import Costs
from lamina.training.evaluate import (
    KeptLogits,
    against_frozen,
    answers,
    answers_by_task,
    known_task,
    measured,
    routing_accuracy,
    row_of,
)
from lamina.training.general import general_metrics, general_rows
from lamina.training.probes import Probes
from lamina.training.settings import DRIFTS, TrainingSettings
from lamina.training.stopwatch import Stopwatch

Result = TypeVar("Result")

FEW_ROWS = 4
"""How many rows are run to measure what one costs."""
TOP = 5
"""The k of the top-k accuracy; a job may have many classes that look alike."""
EVALUATED: tuple[Part, ...] = ("validation", "test")


class Scorecard:
    """Asks a strategy for predictions, and records how good they were and what they cost."""

    def __init__(
        self,
        strategy: Strategy,
        model: AdaptedModel,
        stream: Stream[Batch],
        training: TrainingSettings,
    ) -> None:
        self._strategy = strategy
        self._model = model
        self._stream = stream
        self._batch_size = training.evaluation_batch_size
        self._train_bytes = [each.train.num_bytes() for each in stream.experiences]
        self.measure = measure_of(training.measure, stream.answers)
        self._most = training.max_new_tokens if self.measure.reads_texts else None
        self.matrices = {
            part: AccuracyMatrix(
                [len(each.part(part)) for each in stream.experiences],
                measure=self.measure.name,
                better=self.measure.better,
            )
            for part in EVALUATED
        }
        self.answers: dict[Part, list[AnyAnswers | None]] = {}
        """The predictions for every task at the last evaluation."""
        self.routing: dict[Part, float] = {}
        self.clock: Callable[[], float] = time.perf_counter
        """Seconds that this learner has spent, from any beginning."""
        self.stopwatch: Stopwatch | None = None
        """Where only the pace of the learner is asked for: it times each piece of work, and no
        operations are counted."""
        self.costs = Costs()
        self.probes = Probes(training)
        self._asks_before = (
            training.drift
            and strategy.data == "current"
            and stream.scenario in DRIFTS
            and stream.answers == "classes"
        )
        self._drifts_from_frozen = training.drift and stream.answers == "tokens"
        self._knows_task = stream.scenario == "task_incremental"
        self._general: Batch | None = None
        """Prompts for a language model that have nothing to do with the stream, with the frozen
        model's answers."""
        self._asks_general = training.general and stream.answers == "tokens"
        self.general: dict[str, float] = {}
        """The metrics of these prompts after the last task."""
        self._before: Tensor | None = None
        """The logits [N, classes] for the task that is being learned, from before it was
        learned."""
        self.drifts: list[float | None] = []
        """Drift by task."""

    @contextmanager
    def timed(self, name: Literal["train", "evaluation"]) -> Iterator[None]:
        """Add the time of what happens inside."""
        start = self.clock()
        yield
        key = f"{name}_seconds"
        setattr(self.costs, key, getattr(self.costs, key) + self.clock() - start)

    def counting(self, kind: str, num_rows: int, work: Callable[[], Result]) -> Result:
        """What `work` on `num_rows` rows returns, its operations added to the task's.

        Those of the first batch of a kind are counted and the others taken to need as many per
        row: counting slows a batch down several times.
        """
        if self.stopwatch is not None:
            return self.stopwatch.timed(kind, num_rows, work)
        if kind in self.costs.flops_per_row:
            result = work()
        else:
            result, flops = self._counted(work)
            self.costs.flops_per_row[kind] = flops / num_rows
        self.costs.spend(kind, num_rows)
        return result

    def before_task(self, task: int) -> None:
        """Answer a task's validation rows before it is learned, where its drift is wanted."""
        self._before = None
        known, data = self._model.num_classes(), self._stream.experiences[task].validation
        if not self._asks_before or task == 0 or len(data) == 0:
            return
        kept = KeptLogits(task, known)
        with self.timed("evaluation"):
            asked = (self._strategy, self._model, data, None, self._batch_size)
            answers(*asked, (kept, range(len(data))))
        self._before = kept.logits()

    def skip_task(self) -> None:
        """Leave a task's row of R undefined."""
        for matrix in self.matrices.values():
            matrix.add([None] * len(self._stream))

    def measure_now(self, part: Part, task: int) -> float:
        """The measure on a part of a task, in the middle of training."""
        experience = self._stream.experiences[task]
        known = known_task(self._stream, experience.task)
        with self._model.dropping(None):
            data = experience.part(part)
            asked = (self._strategy, self._model, data, known, self._batch_size)
            return measured(self.measure, *asked, self._most)

    @torch.no_grad()
    def close_task(self, task: int, memory_bytes: int) -> None:
        """Record what is stored after a task, and what one pass over the task would have cost."""
        costs, data = self.costs, self._stream.experiences[task].train
        kept = sum(each.num_parameters() for each in self._model.adapters.values())
        costs.stored_parameters.append(kept + _num_stored(self._strategy.state))
        costs.memory_bytes.append(memory_bytes)
        if not costs.one_pass_flops:
            costs.flops_per_row["one pass"] = self._flops_of_one_pass(data)
        costs.one_pass_flops.append(costs.flops_per_row["one pass"] * len(data))

    def evaluate(self, task: int) -> None:
        """Add a row to each matrix."""
        before = self._before
        keep = None if before is None else KeptLogits(task, before.shape[1])
        decides = self._strategy.routes and self._stream.scenario != "task_incremental"
        for part, matrix in self.matrices.items():
            asked = (self._strategy, self._model, self._stream, part)
            wanted = keep if part == "validation" else None
            self.answers[part] = answers_by_task(*asked, self._batch_size, wanted, self._most)
            matrix.add(row_of(self.answers[part], self.measure))
            if decides:
                self.routing[part] = routing_accuracy(*asked, task + 1, self._batch_size)
        moved = None
        if before is not None and keep is not None:
            moved = drift(before, keep.logits())
        if self._drifts_from_frozen:
            moved = self._drift_from_frozen(task)
        self.drifts.append(moved)
        if self._asks_general and not self._knows_task:
            if self._general is None:
                self._general = general_rows(self._model.backbone)
            rows, size = self._general, self._batch_size
            held = against_frozen(self._strategy, self._model, rows, None, size)
            self.general = general_metrics(held)
        self._before = None
        self._price_a_prediction(task)

    def metrics(self) -> dict[str, float]:
        """Every number that is defined, by name."""
        num_classes = self._model.num_classes()
        chance = None if self.measure.better == "min" else 0.0
        if num_classes:
            chance = 1.0 / num_classes
        found = {
            f"{part}/{name}": value
            for part, matrix in self.matrices.items()
            for name, value in matrix.summaries(chance).items()
        }
        found |= {f"{part}/routing_accuracy": share for part, share in self.routing.items()}
        for part in EVALUATED:
            found |= {f"{part}/{name}": value for name, value in self._of_classes(part).items()}
        if self.drifts and self.drifts[-1] is not None:
            known = [each for each in self.drifts if each is not None]
            found |= {"drift/kl": known[-1], "drift/mean_kl": fmean(known)}
        found |= self.general | self.probes.metrics(self.measure.name) | self.costs.metrics()
        return found if self.measure.better == "min" else found | self._composite()

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "matrices": {part: matrix.rows for part, matrix in self.matrices.items()},
            "samples": {part: matrix.num_samples for part, matrix in self.matrices.items()},
            "train_bytes": self._train_bytes,
            "costs": self.costs.state_dict(),
            "probes": self.probes.state_dict(),
            "drifts": self.drifts,
            "general": self.general,
            "before": self._before,
            "answers": {
                part: [None if each is None else each.plain() for each in found]
                for part, found in self.answers.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave. The stream may have more tasks than then, and no rows
        any more of those it had."""
        for part, rows in state["matrices"].items():
            matrix, known = self.matrices[part], state["samples"][part]
            width = len(self._stream)
            matrix.rows = [[*row, *[None] * (width - len(row))] for row in rows]
            matrix.num_samples[: len(known)] = known
        self._train_bytes[: len(state["train_bytes"])] = state["train_bytes"]
        self.costs = Costs.from_state(state["costs"])
        self.probes.load_state_dict(state["probes"])
        self.drifts = list(state["drifts"])
        self.general = dict(state.get("general", {}))
        self._before = state.get("before")
        self.answers = {
            part: [None if each is None else of_plain(each) for each in found]
            for part, found in state["answers"].items()
        }

    def _drift_from_frozen(self, task: int) -> float | None:
        """KL(frozen || now) a token, on the validation rows of the task that was learned."""
        experience = self._stream.experiences[task]
        if not len(experience.validation):
            return None
        known = known_task(self._stream, experience.task)
        asked = (self._strategy, self._model, experience.validation, known, self._batch_size)
        return against_frozen(*asked).kl

    def _flops_of_one_pass(self, data: Batch) -> float:
        """Of a row, through the frozen backbone and back."""
        if self.stopwatch is not None:
            return 0.0
        few = self._few(data)
        _, forward = self._counted(lambda: self._model.backbone(few.inputs), whole=True)
        # Frozen weights need no gradient, so a backward takes as much as a forward.
        return 2 * forward / len(few)

    @torch.no_grad()
    def _price_a_prediction(self, task: int) -> None:
        """Forwards of the backbone that a row costs, and their operations if that has changed."""
        if self.stopwatch is not None:
            return
        experience = self._stream.experiences[task]
        rows = experience.test if len(experience.test) else experience.train
        few, known = self._few(rows), known_task(self._stream, experience.task)
        predict = partial(self._strategy.predict, self._model, few.inputs, known)
        backbone = self._model.backbone
        with backbone.by_itself(), backbone.counting_rows() as count:
            predict()
        passes = count() / len(few)
        if passes != self.costs.inference_passes:
            self.costs.inference_passes = passes
            self.costs.inference_flops = self._counted(predict)[1] / len(few)

    def _counted(self, work: Callable[[], Result], *, whole: bool = False) -> tuple[Result, int]:
        """What `work` returns and its operations; what the feature store saves counts as well.
        `whole`: it is not asked, and so not filled either."""
        with self._model.backbone.by_itself(whole=whole):
            return counted(work)

    def _composite(self) -> dict[str, float]:
        """The continual score of either part, and its criteria; of shares only."""
        found = {}
        frozen = self._model.backbone.num_parameters()
        for part, matrix in self.matrices.items():
            each = criteria(
                matrix.rows,
                [frozen + stored for stored in self.costs.stored_parameters],
                self.costs.memory_bytes,
                sum(self._train_bytes),
                self.costs.train_flops,
                self.costs.one_pass_flops,
            )
            found[f"{part}/continual_score"] = continual_score(each)
            found |= {f"{part}/criterion_{name}": value for name, value in each.items()}
        return found

    def _of_classes(self, part: Part) -> dict[str, float]:
        """Measures beyond accuracy of the answers to all tasks so far, all rows together; empty
        where a task that has rows was not evaluated."""
        matrix = self.matrices[part]
        so_far = range(len(matrix.rows)) if part in self.answers else range(0)
        found = [self.answers[part][task] for task in so_far if matrix.num_samples[task]]
        known = [each for each in found if isinstance(each, Answers)]
        if not known or len(known) < len(found):
            return {}
        labels, predicted, place = (
            torch.cat([getattr(each, name) for each in known])
            for name in ("labels", "predicted", "place")
        )
        metrics = {"macro_f1": macro_f1_of(labels, predicted, len(self._stream.class_names))}
        if self._num_competing(so_far) > TOP:
            metrics[f"top{TOP}_accuracy"] = float((place < TOP).double().mean())
        return metrics

    def _num_competing(self, tasks: range) -> int:
        """Among how many classes every row's answer was chosen, at least."""
        classes = [self._stream.experiences[task].task.classes for task in tasks]
        if self._stream.scenario == "task_incremental":
            return min(map(len, classes))
        return len({number for each in classes for number in each})

    def _few(self, data: Batch) -> Batch:
        return data[slice(0, FEW_ROWS)].trimmed().to(self._model.backbone.device)


def _num_stored(state: Any) -> int:
    """Numbers in the tensors of a strategy's state."""
    if isinstance(state, torch.Tensor):
        return state.numel()
    if isinstance(state, Mapping):
        return sum(_num_stored(each) for each in state.values())
    if isinstance(state, list):
        return sum(_num_stored(each) for each in state)
    return 0
