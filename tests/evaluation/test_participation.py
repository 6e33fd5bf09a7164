"""Participation and staleness, against values worked out by hand."""

import pytest

from lamina.evaluation.participation import participation, staleness


def test_participation_counts_those_that_never_took_part():
    found = participation({0: 4, 1: 2, 2: 2}, num_clients=4, rounds=4)
    assert found == pytest.approx(
        {
            "inclusion_rate": 0.75,
            "per_round": 2.0,
            "min": 0.0,
            "p10": 0.6,
            "median": 2.0,
            "p90": 3.4,
            "max": 4.0,
            "jain": 64 / (4 * 24),
        }
    )


def test_before_the_first_round_nobody_took_part():
    found = participation({}, num_clients=3, rounds=0)
    assert found["inclusion_rate"] == found["per_round"] == found["max"] == 0.0


def test_staleness_of_a_histogram():
    assert staleness({0: 3, 1: 1, 3: 1}) == pytest.approx({"mean": 0.8, "max": 3.0, "fresh": 0.6})
    assert staleness({}) == {}
