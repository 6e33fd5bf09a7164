"""R[client, time, task]: each client in its own order, and summaries over clients, by hand."""

import pytest

from lamina.evaluation.client_matrix import (
    Check,
    ClientMatrix,
    spatial_forgetting,
)

SIZES = [[10, 10, 20], [30, 30, 0], [5, 5, 5]]


@pytest.fixture
def matrix():
    """Client 0 learns 2, 0, 1; client 1 learns 0, 2 (of which it has no test rows), 1; client 2 is
    never asked."""
    matrix = ClientMatrix(SIZES)
    matrix.add(0, Check(0.0, (2,), {2: 0.9}))
    matrix.add(0, Check(0.5, (2,), {2: 0.8}))
    matrix.add(0, Check(1.0, (2, 0), {2: 0.5, 0: 0.6}))
    matrix.add(0, Check(2.0, (2, 0, 1), {2: 0.6, 0: 0.4, 1: 1.0}))
    matrix.add(1, Check(0.0, (0,), {0: 0.7}))
    matrix.add(1, Check(1.0, (0, 2), {0: 0.5}))
    matrix.add(1, Check(2.0, (0, 2, 1), {0: 0.3, 1: 0.5}))
    return matrix


def test_a_clients_matrix_is_in_its_own_order_with_the_last_check_of_each_stage(matrix):
    assert matrix.of(0).num_samples == [20, 10, 10]
    assert matrix.of(0).rows == [[0.8, None, None], [0.5, 0.6, None], [0.6, 0.4, 1.0]]


def test_a_task_without_rows_is_left_out_and_its_stage_counts_to_the_one_before(matrix):
    assert matrix.of(1).num_samples == [30, 30]
    assert matrix.of(1).rows == [[0.5, None], [0.3, 0.5]]


def test_a_stage_without_a_check_is_undefined():
    matrix = ClientMatrix([[10, 10]])
    matrix.add(0, Check(1.0, (1, 0), {1: 0.5, 0: 0.7}))
    assert matrix.of(0).rows == [[None, None], [0.5, 0.7]]
    assert matrix.of(0).average_accuracy() == pytest.approx(0.6)
    assert matrix.of(0).forgetting() is None


def test_a_task_that_comes_back_belongs_to_the_stage_of_the_newest_task():
    matrix = ClientMatrix([[10, 10]])
    for time, value in enumerate([0.9, 0.5, 0.8]):
        matrix.add(0, Check(time, (0,) if time == 0 else (0, 1), {0: value, 1: 1 - value}))
    assert matrix.of(0).rows[-1] == pytest.approx([0.8, 0.2])


def test_summaries_are_means_over_clients_and_weighted_by_rows(matrix):
    found = matrix.summaries()
    first, second = (0.6 + 0.4 + 1.0) / 3, (0.3 + 0.5) / 2
    assert found["average_accuracy"] == pytest.approx((first + second) / 2)
    assert found["average_accuracy/weighted"] == pytest.approx((40 * first + 60 * second) / 100)
    first = (0.8 + (0.5 + 0.6) / 2 + first) / 3
    second = (0.5 + second) / 2
    assert found["average_incremental_accuracy"] == pytest.approx((first + second) / 2)


def test_forgetting_is_chaudhrys_of_each_client(matrix):
    first, second = ((0.8 - 0.6) + (0.6 - 0.4)) / 2, 0.5 - 0.3
    assert matrix.summaries()["forgetting"] == pytest.approx((first + second) / 2)


def test_accuracy_on_the_union_counts_rows(matrix):
    right = 20 * 0.6 + 10 * 0.4 + 10 * 1.0 + 30 * 0.3 + 30 * 0.5
    assert matrix.union_accuracy() == pytest.approx(right / 100)
    assert matrix.summaries()["union_accuracy"] == pytest.approx(right / 100)


def test_quantiles_and_fairness_are_of_the_clients_average_accuracies(matrix):
    found = matrix.summaries()
    low, high = 0.4, 2.0 / 3
    assert found["average_accuracy/min"] == pytest.approx(low)
    assert found["average_accuracy/max"] == pytest.approx(high)
    assert found["average_accuracy/p10"] == pytest.approx(low + 0.1 * (high - low))
    assert found["fairness/jain"] == pytest.approx((low + high) ** 2 / (2 * (low**2 + high**2)))
    assert found["fairness/worst_decile"] == pytest.approx(low)


def test_the_number_of_summaries_does_not_grow_with_the_clients():
    def names(clients):
        matrix = ClientMatrix([[4, 4]] * clients)
        for client in range(clients):
            matrix.add(client, Check(0, (0,), {0: 0.5}))
            matrix.add(client, Check(1, (0, 1), {0: 0.25, 1: 0.5}))
        return set(matrix.summaries())

    assert names(1) == names(200)


def test_nobody_asked_means_nothing_to_say():
    matrix = ClientMatrix(SIZES)
    assert matrix.summaries() == {}
    assert matrix.union_accuracy() is None
    assert "forgetting" not in matrix.summaries()


def test_an_accuracy_without_rows_or_out_of_order_is_an_error(matrix):
    with pytest.raises(ValueError, match="client 1 has no rows of task 2"):
        matrix.add(1, Check(3.0, (0, 2, 1), {2: 0.5}))
    with pytest.raises(ValueError, match=r"a check at 1\.5 after one at 2\.0"):
        matrix.add(0, Check(1.5, (2, 0, 1), {2: 0.5}))


def test_spatial_forgetting_is_local_minus_aggregated():
    before, after = [0.9, 0.6, None, 0.5], [0.7, 0.7, 0.4, None]
    assert spatial_forgetting(before, after) == pytest.approx((0.2 - 0.1) / 2)
    weighted = spatial_forgetting(before, after, [3, 1, 9, 9])
    assert weighted == pytest.approx((3 * 0.2 - 0.1) / 4)
    assert spatial_forgetting([None], [0.5]) is None
