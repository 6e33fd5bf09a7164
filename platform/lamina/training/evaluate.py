"""Accuracy on the parts of a stream."""

from statistics import fmean

import torch
from torch import Tensor

from lamina.adapters.model import AdaptedModel
from lamina.core import Batch, Part, Stream, Task
from lamina.evaluation.accuracy_matrix import Row
from lamina.strategies.base import Strategy


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
        right = answered_rightly(strategy, model, together, None, batch_size)
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
    """Share of right rows. With a task, only its classes compete."""
    return int(answered_rightly(strategy, model, data, task, batch_size).sum()) / len(data)


@torch.no_grad()
def answered_rightly(
    strategy: Strategy, model: AdaptedModel, data: Batch, task: Task | None, batch_size: int
) -> Tensor:
    """Which rows are right, bool [N] on the CPU. With a task, only its classes compete. Texts are
    answered with others of about their length."""
    found = [torch.zeros(0, dtype=torch.bool)]
    for batch in data.by_length().chunks(batch_size):
        placed = batch.to(model.backbone.device)
        logits = strategy.predict(model, placed.inputs, task)
        if task is not None:
            classes = torch.tensor(task.classes, device=logits.device)
            predicted = classes[logits[:, classes].argmax(dim=1)]
        else:
            predicted = logits.argmax(dim=1)
        found.append((predicted == placed.labels).cpu())
    right = torch.cat(found)
    right[data.lengths().argsort(stable=True)] = right.clone()
    return right


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
