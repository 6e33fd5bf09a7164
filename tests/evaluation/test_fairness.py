"""How a number differs between clients, against values worked out by hand."""

import pytest

from lamina.evaluation.fairness import fairness, mean_over_clients, quantiles


def test_fairness_by_hand():
    found = fairness([0.2, None, 0.6])
    assert found == pytest.approx(
        {"std": 0.2, "min": 0.2, "worst_decile": 0.2, "jain": 0.64 / (2 * 0.40)}
    )


def test_the_worst_decile_is_the_mean_of_a_tenth_rounded_up():
    assert fairness([n / 100 for n in range(100)])["worst_decile"] == pytest.approx(0.045)
    assert fairness([n / 100 for n in range(11)])["worst_decile"] == pytest.approx(0.005)


def test_jain_is_one_for_equals_and_one_nth_for_a_monopoly():
    assert fairness([0.3] * 7)["jain"] == pytest.approx(1.0)
    assert fairness([1.0] + [0.0] * 3)["jain"] == pytest.approx(0.25)
    assert fairness([0.0, 0.0])["jain"] == 1.0


def test_means_leave_out_what_is_undefined_or_has_no_weight():
    assert mean_over_clients([1.0, None, 3.0]) == 2.0
    assert mean_over_clients([1.0, None, 3.0, 9.0], [1, 5, 3, 0]) == pytest.approx(2.5)
    assert mean_over_clients([1.0, None], [0, 4]) is None


def test_quantiles_are_linear_between_clients():
    found = quantiles([0.0, 1.0, 2.0, 3.0, None, 4.0])
    assert found == pytest.approx({"min": 0.0, "p10": 0.4, "median": 2.0, "p90": 3.6, "max": 4.0})


def test_of_nothing_there_is_nothing_to_say():
    assert fairness([None]) == quantiles([]) == {}
