"""Accuracy on the validation and test data of a stream."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from statistics import fmean

import torch
from torch import Tensor

from lamina.adapters.model import AdaptedModel
from lamina.core import IGNORED, Batch, Part, Stream, Task
from lamina.evaluation.accuracy_matrix import Row
from lamina.strategies.base import Strategy
from lamina.training.finite import NotFiniteError


@dataclass(frozen=True)
class Answers:
    """What was predicted of N rows; every tensor is on the CPU.

    Where answers are tokens, a row's `labels` is the number of its tokens, its `predicted` the
    number of those that are right when all before them are given, and its `place` that of the
    others. So a row is right if all its tokens are: an exact match of what greedy decoding gives.
    """

    labels: Tensor
    """int64 [N], what is right."""
    predicted: Tensor
    """int64 [N], the class with the best logit."""
    place: Tensor
    """int64 [N], the place of the right class among all, from 0: how many have a better logit. Of
    a class that the head does not know, the number of all."""
    finite: Tensor
    """bool [N], whether the best logit is a finite number (classes that cannot be meant are minus
    infinity, and that is fine)."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def right(self) -> Tensor:
        """bool [N]; a row whose logits are not finite is wrong."""
        return (self.predicted == self.labels) & self.finite

    def checked(self) -> "Answers":
        """These. Raises NotFiniteError where a row's logits are not finite."""
        if bool(self.finite.all()):
            return self
        number = int((~self.finite).sum())
        raise NotFiniteError(f"the logits of {number} of {len(self)} rows are not finite")

    def packed(self) -> Tensor:
        """As one tensor, int32 [4, N], for a checkpoint."""
        columns = [self.labels, self.predicted, self.place, self.finite]
        return torch.stack([each.int() for each in columns])

    @staticmethod
    def unpacked(columns: Tensor) -> "Answers":
        """What `packed` gave."""
        labels, predicted, place, finite = columns.long()
        return Answers(labels, predicted, place, finite.bool())

    def split(self, sizes: Sequence[int]) -> list["Answers"]:
        """Of consecutive rows, so many each."""
        return [Answers.unpacked(each) for each in self.packed().split(list(sizes), dim=1)]


class KeptLogits:
    """The logits of one task's rows, kept while a part is evaluated."""

    def __init__(self, task: int, num_classes: int) -> None:
        """Of the task of this index, and of the first so many classes."""
        self.task = task
        self._num_classes = num_classes
        self._pieces: list[tuple[Tensor, Tensor]] = []

    def see(self, rows: Tensor, logits: Tensor, own: range) -> None:
        """Logits [n, classes] of rows of an evaluation, by their numbers, int64 [n]; the task has
        those numbered `own`."""
        is_own = (rows >= own.start) & (rows < own.stop)
        kept = logits[is_own.to(logits.device), : self._num_classes].float().cpu()
        self._pieces.append((rows[is_own] - own.start, kept))

    def logits(self) -> Tensor:
        """float32 [N, classes], in the order of the task's rows."""
        rows = torch.cat([rows for rows, _ in self._pieces])
        return torch.cat([kept for _, kept in self._pieces])[rows.argsort()]


def answers_by_task(
    strategy: Strategy,
    model: AdaptedModel,
    stream: Stream[Batch],
    part: Part,
    batch_size: int,
    keep: KeptLogits | None = None,
) -> list[Answers | None]:
    """What is predicted of every task's part; None where the head does not know all of the task's
    classes yet, and where the part has no rows (a client need not have some of every task).

    Texts are answered in one go, whatever their task, where predictions know none: of many texts
    more have one length. The logits of a task that are to be kept are put into `keep`. Raises
    NotFiniteError for logits that are not finite.
    """
    known = model.num_classes()
    asked = {
        index: each.part(part)
        for index, each in enumerate(stream.experiences)
        if max(each.task.classes, default=-1) < known and len(each.part(part))
    }
    found: list[Answers | None] = [None] * len(stream)
    if stream.scenario == "task_incremental" or stream.modality != "text":
        for index, data in asked.items():
            task = known_task(stream, stream.experiences[index].task)
            kept = (keep, range(len(data))) if keep is not None and keep.task == index else None
            found[index] = answers(strategy, model, data, task, batch_size, kept).checked()
    elif asked:
        together = Batch.cat(list(asked.values()))
        kept = None
        if keep is not None and keep.task in asked:
            start = sum(len(data) for place, data in asked.items() if place < keep.task)
            kept = keep, range(start, start + len(asked[keep.task]))
        whole = answers(strategy, model, together, None, batch_size, kept).checked()
        sizes = [len(data) for data in asked.values()]
        for index, own in zip(asked, whole.split(sizes), strict=True):
            found[index] = own
    return found


def accuracy_row(found: Sequence[Answers | None]) -> Row:
    """The share of right rows of each task."""
    return [None if each is None else int(each.right.sum()) / len(each) for each in found]


def known_task(stream: Stream[Batch], task: Task) -> Task | None:
    """The task that a row comes from, where a prediction may know it (task-incremental)."""
    return task if stream.scenario == "task_incremental" else None


def accuracy(
    strategy: Strategy, model: AdaptedModel, data: Batch, task: Task | None, batch_size: int
) -> float:
    """Share of right rows. With a task, only its classes compete. Raises NotFiniteError for logits
    that are not finite."""
    found = answers(strategy, model, data, task, batch_size).checked()
    return int(found.right.sum()) / len(data)


def answers(
    strategy: Strategy,
    model: AdaptedModel,
    data: Batch,
    task: Task | None,
    batch_size: int,
    keep: tuple[KeptLogits, range] | None = None,
) -> Answers:
    """What is predicted of rows, in their order. With a task, only its classes compete. `keep` is
    shown the logits, with the numbers of the rows that it wants."""
    pieces = []
    order, start = data.lengths().argsort(stable=True), 0
    for labels, logits in logits_by_length(strategy, model, data, task, batch_size):
        rows = order[start : (start := start + len(labels))]
        if labels.dim() == 2:
            pieces.append(_of_tokens(labels, logits).cpu())
            continue
        if keep is not None:
            keep[0].see(rows, logits, keep[1])
        # The largest is NaN where any is.
        best, predicted = logits.max(dim=1)
        number = logits.shape[1]
        own = logits.gather(1, labels[:, None].clamp(0, number - 1))
        is_known = (labels >= 0) & (labels < number)
        place = torch.where(is_known, (logits > own).sum(dim=1), number)
        finite = best.isfinite().long()
        pieces.append(torch.stack([labels, predicted, place, finite]).cpu())
    columns = torch.cat(pieces, dim=1) if pieces else torch.zeros(4, 0, dtype=torch.int64)
    columns[:, order] = columns.clone()
    return Answers.unpacked(columns)


def _of_tokens(labels: Tensor, logits: Tensor) -> Tensor:
    """The columns of Answers, int64 [4, N], of answers [N, A] and logits [N, A, V]."""
    best, predicted = logits.max(dim=2)
    counts = labels != IGNORED
    right = ((predicted == labels) & counts).sum(dim=1)
    number = counts.sum(dim=1)
    finite = (best.isfinite() | ~counts).all(dim=1).long()
    return torch.stack([number, right, number - right, finite])


def answered_rightly(
    strategy: Strategy, model: AdaptedModel, data: Batch, task: Task | None, batch_size: int
) -> Tensor:
    """Which rows are right, bool [N] on the CPU; one whose logits are not finite is wrong."""
    return answers(strategy, model, data, task, batch_size).right


@torch.no_grad()
def logits_by_length(
    strategy: Strategy, model: AdaptedModel, data: Batch, task: Task | None, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Labels [n] and logits [n, classes] of batches of rows, on the model's device. Texts are
    answered with others of about their length: the rows come in the order of
    `data.lengths().argsort(stable=True)`. With a task, all but its classes are minus infinity."""
    for batch in data.by_length().chunks(batch_size):
        moved = batch.to(model.backbone.device)
        yield moved.labels, logits_of(strategy, model, moved, task)


@torch.no_grad()
def logits_of(strategy: Strategy, model: AdaptedModel, batch: Batch, task: Task | None) -> Tensor:
    """Logits [N, classes] of a batch that is on the model's device, as it is padded. With a task
    that has classes, all but these are minus infinity."""
    logits = strategy.predict(model, batch.inputs, task)
    if task is None or not task.classes:
        return logits
    classes = torch.tensor(task.classes, device=logits.device)
    others = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
    others[classes] = False
    return logits.masked_fill(others, -inf)


@torch.no_grad()
def routing_accuracy(
    strategy: Strategy,
    model: AdaptedModel,
    stream: Stream[Batch],
    part: Part,
    num_tasks: int,
    batch_size: int,
) -> float:
    """Mean over those of the first `num_tasks` tasks that have rows of the share of rows that are
    sent to their own task's module.

    Where a task comes back with the same classes, the modules of all its times are its own; domains
    share their classes, and each has its own.
    """
    tasks = [each.task for each in stream.experiences[:num_tasks]]
    shares = []
    for each in stream.experiences[:num_tasks]:
        data = each.part(part)
        if not len(data):
            continue
        own = [
            other.index
            for other in tasks
            if other == each.task
            or (stream.scenario != "domain_incremental" and other.classes == each.task.classes)
        ]
        routes = [
            strategy.route(model, batch.to(model.backbone.device).inputs).cpu()
            for batch in data.chunks(batch_size)
        ]
        shares.append(float(torch.isin(torch.cat(routes), torch.tensor(own)).float().mean()))
    return fmean(shares)
