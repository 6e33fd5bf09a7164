"""Losses as functions of tensors; how much a class counts is said around them (`weighing`)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.core import IGNORED

_CLASS_WEIGHTS: ContextVar[Tensor | None] = ContextVar("class_weights", default=None)
"""A context is a greenlet's own, so learners of one cohort do not see each other's weights."""


def balanced_weights(labels: Tensor, num_classes: int) -> Tensor:
    """How much a row of each class counts so that all classes count the same: float32
    [num_classes], N / (k N_c) for N rows of k classes, N_c of class c (scikit-learn's "balanced");
    1 for classes that have no row. The mean over the N rows is 1.

    `labels`: int64 [N].
    """
    counts = torch.bincount(labels, minlength=num_classes).float()
    weights = len(labels) / ((counts > 0).sum() * counts)
    return torch.where(counts > 0, weights, 1.0)


@contextmanager
def weighing(class_weights: Tensor | None) -> Iterator[None]:
    """Let `cross_entropy` multiply a row's loss by the weight of its class, inside. None: by 1.

    `class_weights`: float32 [classes of the stream], on the device of the labels.
    """
    token = _CLASS_WEIGHTS.set(class_weights)
    try:
        yield
    finally:
        _CLASS_WEIGHTS.reset(token)


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    classes: Sequence[int] | None = None,
    reduction: str = "mean",
    columns: Sequence[int] | None = None,
) -> Tensor:
    """Cross-entropy over the given classes only, others counting as minus infinity (default, and
    where a task has none because its answers are tokens: over all).

    `logits` [N, C] with `labels` [N], or [N, A, V] with [N, A] for the tokens of answers, where
    IGNORED labels do not count: the mean is over tokens then, as in transformers. `columns`: the
    class that each column of logits stands for, where a head knows some classes alone (default:
    column c is class c). Labels are class numbers either way.

    Returns a scalar, the mean over rows, or [N] (or [N, A]) with reduction "none". Inside
    `weighing` each row's loss is first multiplied by its class's weight; that of a negative label,
    which is no class, is not.
    """
    weights = _CLASS_WEIGHTS.get()
    if weights is not None:
        own = torch.where(labels >= 0, weights[labels.clamp_min(0)], 1.0)
        each = _unweighted(logits, labels, classes, "none", columns) * own
        return each if reduction == "none" else each.mean()
    return _unweighted(logits, labels, classes, reduction, columns)


def row_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p(y | x) of each row, [N]: of an answer in tokens the sum over its tokens, which is
    longer for a longer answer. `logits` [N, C] with `labels` [N], or [N, A, V] with [N, A]."""
    losses = cross_entropy(logits, labels, reduction="none")
    return losses if losses.dim() == 1 else losses.sum(dim=1)


def answer_lengths(labels: Tensor) -> Tensor:
    """How many tokens each row's answer has, [N]; 1 where it is a class."""
    return torch.ones_like(labels) if labels.dim() == 1 else (labels != IGNORED).sum(dim=1)


def answered(values: Tensor, labels: Tensor) -> Tensor:
    """What is said of each answer as rows [M, ...]: `values` [N, ...] as they are for classes
    `labels` [N]; those [N, A, ...] of the tokens that count for `labels` [N, A]."""
    return values if labels.dim() == 1 else values[labels != IGNORED]


def places(labels: Tensor, classes: Sequence[int]) -> Tensor:
    """Labels int64 [N] as places in `classes`, as a head that knows these classes alone counts
    them; 0 for a label that is not there."""
    return (labels[:, None] == labels.new_tensor(classes)).int().argmax(dim=1)


def _unweighted(
    logits: Tensor,
    labels: Tensor,
    classes: Sequence[int] | None,
    reduction: str,
    columns: Sequence[int] | None,
) -> Tensor:
    if columns is not None:
        labels = places(labels, columns)
    if classes:
        hidden = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
        hidden[list(classes)] = False
        logits = logits.masked_fill(hidden, float("-inf"))
    flat = F.cross_entropy(
        logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction=reduction
    )
    return flat.reshape(labels.shape) if reduction == "none" else flat


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Knowledge distillation (Hinton et al., 2015): T^2 KL(softmax(teacher / T) || softmax(student
    / T)), mean over rows.

    `student` and `teacher` are logits [N, C]. T^2 keeps the gradient's size when T changes.
    """
    return temperature**2 * F.kl_div(
        F.log_softmax(student / temperature, dim=-1),
        F.log_softmax(teacher / temperature, dim=-1),
        reduction="batchmean",
        log_target=True,
    )


def relative_penalty(shares: Sequence[Tensor], loss: Tensor) -> Tensor:
    """The mean of `shares`, scalars that say of one module each how much of the penalised thing it
    has, times the value of `loss`, which gets no gradient from it.

    So a weight of 1 lets a share of 1 cost as much as the loss itself, however many modules there
    are and however far the loss has fallen.
    """
    return torch.stack(list(shares)).mean() * loss.detach()


def orthogonality(first: Tensor, second: Tensor) -> Tensor:
    """Sum of |A_i A_j^T| over all pairs of rows of `first` [r1, d] and `second` [r2, d] (O-LoRA's
    penalty)."""
    return (first @ second.T).abs().sum()


def quadratic_penalty(value: Tensor, anchor: Tensor, importance: Tensor) -> Tensor:
    """Sum of importance * (value - anchor)^2, over the part of `value` that existed when the anchor
    was set.

    A head grows by rows, so `value` may be longer than `anchor` in its first dimension.
    """
    return (importance * (value[: len(anchor)] - anchor).square()).sum()


def quadratic_penalties(
    values: Mapping[str, Tensor], anchors: Mapping[str, Tensor], importances: Mapping[str, Tensor]
) -> Tensor:
    """The sum of `quadratic_penalty` over named tensors: what EWC, SI and MAS add to their loss."""
    penalties = [
        quadratic_penalty(value, anchors[name], importances[name]) for name, value in values.items()
    ]
    return torch.stack(penalties).sum()


def self_contrast(rows: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of telling each of n rows [n, d] from the others by inner product: mean of -log
    softmax_j(r_i r_j / temperature) at j = i (HiDe-Prompt's contrastive regularisation)."""
    similarity = rows @ rows.T / temperature
    return F.cross_entropy(similarity, torch.arange(len(rows), device=rows.device))
