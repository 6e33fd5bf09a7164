"""Measures of a classifier beyond accuracy: confusion matrix, accuracy of each class, macro F1,
top-k accuracy. C is the number of classes, N of rows."""

import torch
from torch import Tensor


def confusion_matrix(labels: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    """int64 [C, C]: how many rows of class i (down) were answered with class j (across).

    Args:
        labels: int64 [N], the true classes.
        predicted: int64 [N], the answers.

    Raises:
        ValueError: The two differ in length, or hold a class that is not in 0..C-1.
    """
    if labels.shape != predicted.shape:
        raise ValueError(f"{len(predicted)} answers for {len(labels)} labels")
    for name, classes in (("labels", labels), ("predicted", predicted)):
        if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < num_classes:
            raise ValueError(f"{name}: a class outside 0..{num_classes - 1}")
    cells = torch.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return cells.view(num_classes, num_classes)


def class_accuracy(confusion: Tensor) -> Tensor:
    """float64 [C]: the share of each class's rows that are right, its recall; NaN where a class has
    no rows."""
    return confusion.diagonal().double() / confusion.sum(dim=1)


def macro_f1(confusion: Tensor) -> float:
    """The mean over classes of F1 = 2 TP / (2 TP + FP + FN), as scikit-learn's `f1_score` with
    `average="macro"`: over the classes that occur as a label or as an answer; NaN of no rows.

    Every class counts the same, so unlike accuracy it falls when a rare class is never answered.
    """
    return _macro_f1(confusion.diagonal(), confusion.sum(dim=1), confusion.sum(dim=0))


def macro_f1_of(labels: Tensor, predicted: Tensor, num_classes: int) -> float:
    """`macro_f1` of labels and answers, int64 [N], without the C^2 cells of a confusion matrix."""
    counts = (
        torch.bincount(each, minlength=num_classes)
        for each in (labels[labels == predicted], labels, predicted)
    )
    return _macro_f1(*counts)


def top_k_accuracy(scores: Tensor, labels: Tensor, k: int) -> float:
    """The share of rows whose class is among the k that are scored highest; NaN of no rows.

    Args:
        scores: [N, C], logits or probabilities.
        labels: int64 [N].

    Raises:
        ValueError: k is not in 1..C.
    """
    if not 1 <= k <= scores.shape[1]:
        raise ValueError(f"k: {k} (allowed: 1 to {scores.shape[1]}, the number of classes)")
    best = scores.topk(k, dim=1).indices
    return float((best == labels[:, None]).any(dim=1).double().mean())


def _macro_f1(right: Tensor, labelled: Tensor, answered: Tensor) -> float:
    """Macro F1 from counts by class, int64 [C] each: rows that are right, rows of the class, rows
    answered with it."""
    total = (labelled + answered).double()
    occurs = total > 0
    return float((2 * right.double()[occurs] / total[occurs]).mean())
