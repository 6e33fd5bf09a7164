import pytest

from lamina.evaluation.accuracy_matrix import AccuracyMatrix

ROWS = [
    [0.90, None, None, None],
    [0.80, 0.70, None, None],
    [0.85, 0.75, 0.95, None],
    [0.60, 0.80, 0.90, 0.50],
]


@pytest.fixture
def matrix():
    matrix = AccuracyMatrix([100, 100, 100, 100])
    for row in ROWS:
        matrix.add(row)
    return matrix


def test_average_accuracy_is_the_mean_of_the_last_row(matrix):
    assert matrix.average_accuracy() == pytest.approx(0.70)


def test_average_incremental_accuracy_is_the_mean_over_tasks_of_average_accuracy(matrix):
    assert matrix.average_incremental_accuracy() == pytest.approx((0.90 + 0.75 + 0.85 + 0.70) / 4)


def test_forgetting_takes_the_best_before_the_last_training_as_chaudhry_does(matrix):
    assert matrix.forgetting() == pytest.approx(0.1000)


def test_forgetting_including_last_is_that_of_mammoth_and_pilot(matrix):
    assert matrix.forgetting_including_last() == pytest.approx(0.35 / 3)


def test_backward_transfer_compares_with_the_accuracy_right_after_learning(matrix):
    assert matrix.backward_transfer() == pytest.approx(-0.25 / 3)


def test_learning_accuracy_is_the_mean_of_the_diagonal(matrix):
    assert matrix.learning_accuracy() == pytest.approx((0.90 + 0.70 + 0.95 + 0.50) / 4)


def test_pooled_accuracy_weighs_tasks_by_their_samples():
    matrix = AccuracyMatrix([300, 100])
    matrix.add([0.9, None])
    matrix.add([0.6, 1.0])
    assert matrix.pooled_accuracy() == pytest.approx((300 * 0.6 + 100 * 1.0) / 400)
    assert matrix.average_accuracy() == pytest.approx(0.8)
    assert matrix.average_incremental_pooled_accuracy() == pytest.approx((0.9 + 0.7) / 2)


def test_a_task_that_improved_later_has_negative_forgetting():
    matrix = AccuracyMatrix([10, 10])
    matrix.add([0.5, None])
    matrix.add([0.7, 0.9])
    assert matrix.forgetting() == pytest.approx(-0.2)
    assert matrix.forgetting_including_last() == pytest.approx(0.0)


def test_rows_before_a_task_was_learned_are_no_best():
    matrix = AccuracyMatrix([10, 10, 10])
    matrix.add([0.5, 0.9, 0.1])
    matrix.add([0.5, 0.6, 0.1])
    matrix.add([0.5, 0.6, 0.7])
    assert matrix.forgetting() == pytest.approx(0.0)


def test_forward_transfer_is_what_a_task_is_worth_before_it_is_learned():
    matrix = AccuracyMatrix([10, 10, 10])
    matrix.add([0.9, 0.6, 0.4])
    matrix.add([0.9, 0.9, 0.8])
    matrix.add([0.9, 0.9, 0.9])
    assert matrix.forward_transfer(chance=0.5) == pytest.approx((0.1 + 0.3) / 2)


def test_what_is_not_defined_is_left_out():
    matrix = AccuracyMatrix([10, 10])
    matrix.add([0.9, None])
    summaries = matrix.summaries(chance=0.5)
    assert summaries["average_accuracy"] == pytest.approx(0.9)
    assert not {"forgetting", "backward_transfer", "forward_transfer"} & summaries.keys()


def test_a_matrix_with_only_its_last_row_has_accuracy_but_no_forgetting():
    matrix = AccuracyMatrix([10, 30])
    matrix.add([None, None])
    matrix.add([0.8, 0.9])
    assert matrix.summaries() == {
        "average_accuracy": pytest.approx(0.85),
        "pooled_accuracy": pytest.approx(0.875),
    }


def test_a_row_of_the_wrong_length_is_refused():
    with pytest.raises(ValueError, match="a row of 1 accuracies for 2 tasks"):
        AccuracyMatrix([10, 10]).add([0.5])


def test_tasks_that_are_learned_at_once_or_late_are_judged_from_where_they_were_learned():
    rows = [[0.9, 0.2, 0.6], [0.8, 0.3, 0.7], [0.7, 0.8, 0.5], [0.6, 0.9, 0.4]]
    matrix = AccuracyMatrix([10, 10, 20], rows, learned=[0, 2, 0])
    assert matrix.average_accuracy(0) == pytest.approx((0.9 + 0.6) / 2)
    assert matrix.pooled_accuracy(0) == pytest.approx((9 + 12) / 30)
    assert matrix.forgetting() == pytest.approx(((0.9 - 0.6) + (0.8 - 0.9) + (0.7 - 0.4)) / 3)
    assert matrix.backward_transfer() == pytest.approx((-0.3 + 0.1 - 0.2) / 3)
    assert matrix.learning_accuracy() == pytest.approx((0.9 + 0.8 + 0.6) / 3)
    assert matrix.forward_transfer(0.1) == pytest.approx(0.3 - 0.1)
