"""Evaluation: a strategy's answers on the validation and test data of a stream, and what a measure
makes of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf
from statistics import fmean

import torch
from torch import Tensor

from lamina.adapters.model import AdaptedModel
from lamina.core import IGNORED, Batch, Part, Stream, Task
from lamina.evaluation.accuracy_matrix import Row
from lamina.evaluation.answers import Answers, AnyAnswers, TokenAnswers
from lamina.evaluation.measures.base import Measure
from lamina.evaluation.measures.perplexity import perplexity
from lamina.losses import cross_entropy
from lamina.strategies.base import Strategy
from lamina.training.finite import NotFiniteError
from lamina.training.generate import generated_tokens

LOGITS_BYTES = 2**27
"""How many bytes the logits of answer tokens may take at a time."""


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
    max_new_tokens: int | None = None,
) -> list[AnyAnswers | None]:
    """What is predicted of every task's part; None where the head does not know all of the task's
    classes yet, and where the part has no rows (a client need not have some of every task).

    Texts are answered in one go, whatever their task, where predictions know none: of many texts
    more have one length. The logits of a task that are to be kept are put into `keep`. Where
    texts are read, at most `max_new_tokens` are generated of each answer. Raises NotFiniteError for
    logits that are not finite.
    """
    known = model.num_classes()
    asked = {
        index: each.part(part)
        for index, each in enumerate(stream.experiences)
        if max(each.task.classes, default=-1) < known and len(each.part(part))
    }
    found: list[AnyAnswers | None] = [None] * len(stream)
    if stream.scenario == "task_incremental" or stream.modality != "text":
        for index, data in asked.items():
            task = known_task(stream, stream.experiences[index].task)
            kept = (keep, range(len(data))) if keep is not None and keep.task == index else None
            found[index] = checked(
                answers(strategy, model, data, task, batch_size, kept, max_new_tokens)
            )
    elif asked:
        together = Batch.cat(list(asked.values()))
        kept = None
        if keep is not None and keep.task in asked:
            start = sum(len(data) for place, data in asked.items() if place < keep.task)
            kept = keep, range(start, start + len(asked[keep.task]))
        whole = checked(answers(strategy, model, together, None, batch_size, kept, max_new_tokens))
        sizes = [len(data) for data in asked.values()]
        shares: Sequence[AnyAnswers] = whole.split(sizes)
        for index, own in zip(asked, shares, strict=True):
            found[index] = own
    return found


def checked(found: AnyAnswers) -> AnyAnswers:
    """The answers as they are. Raises NotFiniteError where a row's logits are not finite."""
    if bool(found.finite.all()):
        return found
    number = int((~found.finite).sum())
    raise NotFiniteError(f"the logits of {number} of {len(found)} rows are not finite")


def row_of(found: Sequence[AnyAnswers | None], measure: Measure) -> Row:
    """The measure of the answers to each task: a row of R."""
    return [None if each is None else measure.of(each) for each in found]


def known_task(stream: Stream[Batch], task: Task) -> Task | None:
    """The task that a row comes from, where a prediction may know it (task-incremental)."""
    return task if stream.scenario == "task_incremental" else None


def measured(
    measure: Measure,
    strategy: Strategy,
    model: AdaptedModel,
    data: Batch,
    task: Task | None,
    batch_size: int,
    max_new_tokens: int | None = None,
) -> float:
    """What a measure makes of the answers to rows. With a task, only its classes compete.
    `max_new_tokens` as in `answers_by_task`. Raises NotFiniteError for logits that are not
    finite."""
    return measure.of(
        checked(answers(strategy, model, data, task, batch_size, max_new_tokens=max_new_tokens))
    )


def answers(
    strategy: Strategy,
    model: AdaptedModel,
    data: Batch,
    task: Task | None,
    batch_size: int,
    keep: tuple[KeptLogits, range] | None = None,
    max_new_tokens: int | None = None,
) -> AnyAnswers:
    """What is predicted of rows, in their order. With a task, only its classes compete. `keep` is
    shown the logits, with the numbers of the rows that it wants. `max_new_tokens` as in
    `answers_by_task`."""
    pieces = []
    order, start = data.lengths().argsort(stable=True), 0
    is_of_tokens = data.labels.dim() == 2
    for labels, logits in logits_by_length(strategy, model, data, task, batch_size):
        rows = order[start : (start := start + len(labels))]
        if is_of_tokens:
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
    if not is_of_tokens:
        return Answers.of_plain(columns)
    found = TokenAnswers.of_plain({"columns": columns.double()})
    if max_new_tokens is None:
        return found
    tokens = generated_tokens(strategy, model, data, task, max_new_tokens)
    texts = model.backbone.inputs.texts_of
    return replace(found, said=tuple(texts(tokens)), wanted=tuple(texts(data.labels)))


def _of_tokens(labels: Tensor, logits: Tensor) -> Tensor:
    """The columns of TokenAnswers, float64 [4, N], of answers [N, A] and logits [N, A, V]."""
    best, predicted = logits.max(dim=2)
    counts = labels != IGNORED
    right = ((predicted == labels) & counts).sum(dim=1)
    number = counts.sum(dim=1)
    surprise = cross_entropy(logits, labels, reduction="none").sum(dim=1)
    finite = (best.isfinite() | ~counts).all(dim=1)
    return torch.stack([each.double() for each in (number, right, surprise, finite)])


@dataclass(frozen=True)
class AgainstFrozen:
    """Answers in tokens, compared with those of the frozen model without an adapter; means are over
    tokens."""

    kl: float
    """KL(frozen || now) in nats."""
    perplexity: float
    """Perplexity of the right answers."""
    frozen_perplexity: float
    """Perplexity of the right answers under the frozen model."""


@torch.no_grad()
def against_frozen(
    strategy: Strategy, model: AdaptedModel, data: Batch, task: Task | None, batch_size: int
) -> AgainstFrozen:
    """Compare a strategy with the frozen model on N > 0 rows with answers in tokens."""
    backbone = model.backbone
    sums = torch.zeros(4, dtype=torch.float64)
    for batch in data.by_length().chunks(_size_of_batch(model, data, batch_size)):
        rows = batch.to(backbone.device)
        bare = backbone(rows.inputs).answers
        assert bare is not None, "answers are tokens"
        before = backbone.language_head.of_answers(bare, rows.inputs)
        after = logits_of(strategy, model, rows, task)
        frozen, now = (each.log_softmax(dim=-1) for each in (before, after))
        counts = rows.labels != IGNORED
        kl = (frozen.exp() * (frozen - now)).sum(dim=-1)[counts].double().sum()
        right = rows.labels.clamp_min(0)[:, :, None]
        own = [-each.gather(2, right)[:, :, 0][counts].double().sum() for each in (now, frozen)]
        sums += torch.stack([kl, *own, counts.sum().double()]).cpu()
    mean_kl, surprise, of_frozen = (sums[:3] / sums[3]).tolist()
    return AgainstFrozen(max(mean_kl, 0.0), perplexity(surprise), perplexity(of_frozen))


def answered_rightly(
    strategy: Strategy, model: AdaptedModel, data: Batch, task: Task | None, batch_size: int
) -> Tensor:
    """Which rows are right, bool [N] on the CPU. A row whose logits are not finite is wrong."""
    return answers(strategy, model, data, task, batch_size).right


@torch.no_grad()
def logits_by_length(
    strategy: Strategy, model: AdaptedModel, data: Batch, task: Task | None, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Labels [n] and logits [n, classes] of batches of rows, on the model's device. Texts are
    answered with others of about their length: the rows come in the order of
    `data.lengths().argsort(stable=True)`. With a task, all but its classes are minus infinity."""
    for batch in data.by_length().chunks(_size_of_batch(model, data, batch_size)):
        moved = batch.to(model.backbone.device)
        yield moved.labels, logits_of(strategy, model, moved, task)


def _size_of_batch(model: AdaptedModel, data: Batch, batch_size: int) -> int:
    """The largest batch whose logits fit, at most the size that is asked for."""
    if data.labels.dim() == 1:
        return batch_size
    one = 4 * max(data.labels.shape[1], 1) * model.backbone.language_head.num_tokens
    return max(1, min(batch_size, LOGITS_BYTES // one))


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
