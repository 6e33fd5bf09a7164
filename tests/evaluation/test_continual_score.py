"""The composite score against its formulas, written out."""

import pytest

from lamina.evaluation.continual_score import (
    CRITERIA,
    continual_score,
    criteria,
)

R = [[0.9, 0.2, 0.1], [0.6, 0.8, 0.3], [0.7, 0.5, 0.9]]


def found(rows=R, **changes):
    given = {
        "model_sizes": [100, 120, 200],
        "memory_sizes": [0, 10, 20],
        "data_size": 100,
        "operations": [10.0, 20.0, 40.0],
        "operations_of_one_pass": [5.0, 10.0, 10.0],
    }
    return criteria(rows, **{**given, **changes})


def test_each_criterion_is_its_formula():
    each = found()
    assert tuple(each) == CRITERIA
    assert each["accuracy"] == pytest.approx((0.9 + 0.6 + 0.8 + 0.7 + 0.5 + 0.9) / 6)
    assert each["forward_transfer"] == pytest.approx((0.2 + 0.1 + 0.3) / 3)
    transfer = ((0.6 - 0.9) + (0.7 - 0.9) + (0.5 - 0.8)) / 3
    assert each["remembering"] == pytest.approx(1 - abs(transfer))
    assert each["positive_backward_transfer"] == 0.0
    assert each["model_size_efficiency"] == pytest.approx((1 + 100 / 120 + 100 / 200) / 3)
    assert each["sample_storage_efficiency"] == pytest.approx(1 - (0 + 0.1 + 0.2) / 3)
    assert each["computational_efficiency"] == pytest.approx((0.5 + 0.5 + 0.25) / 3)


def test_improvement_of_old_tasks_counts_as_transfer_and_not_as_remembering():
    each = found([[0.5, None], [0.7, 0.6]], model_sizes=[1], memory_sizes=[0])
    assert each["remembering"] == 1.0
    assert each["positive_backward_transfer"] == pytest.approx(0.2)
    assert "forward_transfer" not in each


def test_every_criterion_stays_within_one():
    assert found(operations_of_one_pass=[90.0] * 3)["computational_efficiency"] == 1.0
    assert found(memory_sizes=[500])["sample_storage_efficiency"] == 0.0


def test_the_score_is_the_mean_of_what_is_defined():
    assert continual_score({"accuracy": 0.8, "remembering": 0.4}) == pytest.approx(0.6)
