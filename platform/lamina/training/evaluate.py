"""Accuracy on the parts of a stream."""

import torch
from torch import Tensor

from lamina.adapters.model import AdaptedModel
from lamina.core import Batch, Experience, Part, Stream, Task
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
    yet."""
    known = model.num_classes()
    told = stream.scenario == "task_incremental"
    return [
        accuracy(strategy, model, each.part(part), each.task if told else None, batch_size)
        if _answerable(each, known)
        else None
        for each in stream.experiences
    ]


@torch.no_grad()
def accuracy(
    strategy: Strategy, model: AdaptedModel, data: Batch, task: Task | None, batch_size: int
) -> float:
    """Share of right rows. With a task, only its classes compete.

    Rows are taken by length, so that short texts are not padded to the longest: predictions are
    each row's own.
    """
    right = 0
    for batch in by_length(data).chunks(batch_size):
        placed = batch.to(model.backbone.device)
        logits = strategy.predict(model, placed.inputs, task)
        if task is not None:
            classes = torch.tensor(task.classes, device=logits.device)
            predicted = classes[logits[:, classes].argmax(dim=1)]
        else:
            predicted = logits.argmax(dim=1)
        right += int((predicted == placed.labels).sum())
    return right / len(data)


def by_length(data: Batch) -> Batch:
    """The rows sorted by number of tokens, where they are texts."""
    mask: Tensor | None = data.inputs.get("attention_mask")
    return data if mask is None else data[torch.argsort(mask.sum(dim=1), stable=True)]


def _answerable(experience: Experience[Batch], known: int) -> bool:
    return max(experience.task.classes) < known
