"""Accuracy on the parts of a stream."""

from statistics import fmean

import torch
from torch import Tensor

from lamina.adapters.model import AdaptedModel
from lamina.core import Batch, Part, Stream, Task
from lamina.evaluation.accuracy_matrix import Row
from lamina.strategies.base import Strategy
from lamina.training.finite import NotFiniteError


def accuracy_row(
    strategy: Strategy,
    model: AdaptedModel,
    stream: Stream[Batch],
    part: Part,
    batch_size: int,
) -> Row:
    """Accuracy on every task's part; None where the head does not know all of the task's classes
    yet, and where the part has no rows (a client need not have some of every task).

    Texts are answered in one go, whatever their task, where predictions know none: of many texts
    more have one length.
    """
    known = model.num_classes()
    asked = {
        place: each.part(part)
        for place, each in enumerate(stream.experiences)
        if max(each.task.classes) < known and len(each.part(part))
    }
    row: Row = [None] * len(stream)
    if stream.scenario == "task_incremental" or stream.modality != "text":
        for place, data in asked.items():
            task = told(stream, stream.experiences[place].task)
            row[place] = accuracy(strategy, model, data, task, batch_size)
    elif asked:
        together = Batch.cat(list(asked.values()))
        right = _rightly(strategy, model, together, None, batch_size)
        sizes = [len(data) for data in asked.values()]
        for place, own in zip(asked, right.split(sizes), strict=True):
            row[place] = int(own.sum()) / len(own)
    return row


def told(stream: Stream[Batch], task: Task) -> Task | None:
    """What a prediction may know of the task that a row comes from."""
    return task if stream.scenario == "task_incremental" else None


def accuracy(
    strategy: Strategy, model: AdaptedModel, data: Batch, task: Task | None, batch_size: int
) -> float:
    """Share of right rows. With a task, only its classes compete. Raises NotFiniteError for logits
    that are not finite."""
    return int(_rightly(strategy, model, data, task, batch_size).sum()) / len(data)


def _rightly(
    strategy: Strategy, model: AdaptedModel, data: Batch, task: Task | None, batch_size: int
) -> Tensor:
    right, finite = _answers(strategy, model, data, task, batch_size)
    if bool(finite.all()):
        return right
    raise NotFiniteError(f"the logits of {int((~finite).sum())} of {len(data)} rows are not finite")


def answered_rightly(
    strategy: Strategy, model: AdaptedModel, data: Batch, task: Task | None, batch_size: int
) -> Tensor:
    """Which rows are right, bool [N] on the CPU; one whose logits are not finite is wrong. With a
    task, only its classes compete. Texts are answered with others of about their length."""
    right, finite = _answers(strategy, model, data, task, batch_size)
    return right & finite


@torch.no_grad()
def _answers(
    strategy: Strategy, model: AdaptedModel, data: Batch, task: Task | None, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Which rows are right, and of which the best logit is a finite number (classes that cannot be
    meant are minus infinity, and that is fine); bool [N] each, on the CPU."""
    found = [torch.zeros(2, 0, dtype=torch.bool)]
    for batch in data.by_length().chunks(batch_size):
        placed = batch.to(model.backbone.device)
        logits = strategy.predict(model, placed.inputs, task)
        if task is not None:
            classes = torch.tensor(task.classes, device=logits.device)
            logits = logits[:, classes]
            predicted = classes[logits.argmax(dim=1)]
        else:
            predicted = logits.argmax(dim=1)
        # The largest is NaN where any is.
        finite = logits.amax(dim=1).isfinite()
        found.append(torch.stack([predicted == placed.labels, finite]).cpu())
    flags = torch.cat(found, dim=1)
    flags[:, data.lengths().argsort(stable=True)] = flags.clone()
    return flags[0], flags[1]


@torch.no_grad()
def routing_accuracy(
    strategy: Strategy,
    model: AdaptedModel,
    stream: Stream[Batch],
    part: Part,
    num_tasks: int,
    batch_size: int,
) -> float:
    """Mean over the first `num_tasks` tasks of the share of rows that are sent to their own task's
    module.

    Where a task comes back with the same classes, the modules of all its times are its own; domains
    share their classes, and each has its own.
    """
    tasks = [each.task for each in stream.experiences[:num_tasks]]
    shares = []
    for each in stream.experiences[:num_tasks]:
        data = each.part(part)
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
