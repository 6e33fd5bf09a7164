"""Bytes, participation and staleness, against values worked out by hand."""

import pytest

from lamina.evaluation.participation import (
    Traffic,
    Transfer,
    participation,
    staleness,
    staleness_histogram,
    traffic_by,
)

TRANSFERS = [
    Transfer(client=7, round=0, task=1, up=10, down=100),
    Transfer(client=2, round=0, task=0, up=20, down=100),
    Transfer(client=7, round=1, task=1, up=0, down=50),
]


def test_bytes_are_summed_by_client_round_and_task():
    assert traffic_by(TRANSFERS, "client") == {2: Traffic(20, 100), 7: Traffic(10, 150)}
    assert traffic_by(TRANSFERS, "round") == {0: Traffic(30, 200), 1: Traffic(0, 50)}
    assert traffic_by(TRANSFERS, "task") == {0: Traffic(20, 100), 1: Traffic(10, 150)}
    assert list(traffic_by(TRANSFERS, "client")) == [2, 7]


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
    counts = staleness_histogram([0, 3, 0, 1, 0])
    assert counts == {0: 3, 1: 1, 3: 1}
    assert list(counts) == [0, 1, 3]
    assert staleness(counts) == pytest.approx({"mean": 0.8, "max": 3.0, "fresh": 0.6})
    assert staleness({}) == {}
