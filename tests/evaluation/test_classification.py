"""Numbers of single classes, against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn import metrics

from lamina.evaluation.classification import (
    class_accuracy,
    confusion_matrix,
    macro_f1,
    macro_f1_of,
    top_k_accuracy,
)

CLASSES = 7


@pytest.fixture(params=[3, 40, 500])
def answers(request):
    """Labels, answers and scores; with few rows some classes have none."""
    draws = torch.Generator().manual_seed(request.param)
    labels = torch.randint(CLASSES, (request.param,), generator=draws)
    scores = torch.randn(request.param, CLASSES, generator=draws)
    scores[torch.arange(len(labels)), labels] += 1.0
    return labels, scores.argmax(dim=1), scores


def test_the_confusion_matrix_is_that_of_scikit_learn(answers):
    labels, predicted, _ = answers
    expected = metrics.confusion_matrix(labels, predicted, labels=range(CLASSES))
    assert confusion_matrix(labels, predicted, CLASSES).tolist() == expected.tolist()


def test_macro_f1_is_that_of_scikit_learn(answers):
    labels, predicted, _ = answers
    expected = metrics.f1_score(labels, predicted, average="macro")
    assert macro_f1(confusion_matrix(labels, predicted, CLASSES)) == pytest.approx(expected)
    assert macro_f1_of(labels, predicted, CLASSES) == pytest.approx(expected)


def test_a_class_is_right_as_often_as_it_is_recalled(answers):
    labels, predicted, _ = answers
    found = class_accuracy(confusion_matrix(labels, predicted, CLASSES)).numpy()
    there = np.unique(labels)
    expected = metrics.recall_score(labels, predicted, labels=there, average=None)
    assert found[there] == pytest.approx(expected)
    assert np.isnan(np.delete(found, there)).all()


@pytest.mark.parametrize("k", [1, 2, 5, CLASSES])
def test_top_k_accuracy_is_that_of_scikit_learn(answers, k):
    labels, _, scores = answers
    expected = (
        metrics.top_k_accuracy_score(labels, scores, k=k, labels=range(CLASSES))
        if k < CLASSES
        else 1.0
    )
    assert top_k_accuracy(scores, labels, k) == pytest.approx(expected)


def test_a_class_that_nobody_has_counts_for_nothing_and_one_that_is_only_answered_counts():
    labels, predicted = torch.tensor([0, 0, 1]), torch.tensor([0, 2, 1])
    assert macro_f1(confusion_matrix(labels, predicted, 9)) == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="2 answers for 3 labels"):
        confusion_matrix(torch.tensor([0, 1, 1]), torch.tensor([0, 1]), 2)
    with pytest.raises(ValueError, match=r"predicted: a class outside 0\.\.1"):
        confusion_matrix(torch.tensor([0, 1]), torch.tensor([0, 2]), 2)
    with pytest.raises(ValueError, match="allowed: 1 to 3"):
        top_k_accuracy(torch.zeros(1, 3), torch.tensor([0]), 4)
