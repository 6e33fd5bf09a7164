"""Means, intervals and comparisons over seeds, against values that were computed by hand and
against scipy's own tests."""

import math
import random

import pytest
from scipy import stats

from lamina.evaluation.seeds import compare, estimate, groups_over_seeds, holm


def row(rank, seed, score, strategy="er", **changes):
    settings = {"training.learning_rate": 0.1}
    return {
        "rank": rank,
        "strategy": strategy,
        "adapter": "lora",
        "scenario": "class_incremental",
        "stream": "digits",
        "backbone": "minilm",
        "settings": settings if seed is None else {**settings, "seed": seed},
        "score": score,
        "average_accuracy": score,
        "forgetting": None,
        "trainable_parameters": 10,
        "tasks_done": 3,
        "mode": "max",
        "status": "finished",
        "name": f"{strategy}-{seed}",
        "trial": f"{strategy}-{seed}-id",
        **changes,
    }


def test_the_interval_of_a_mean_is_what_one_computes_by_hand():
    # Mean 0.7; deviations -0.1, 0, 0.1, so s = 0.1; t(2, 0.975) = 4.302653; 4.302653 * 0.1 / 3**.5.
    found = estimate([0.6, 0.7, 0.8])
    assert found.num == 3
    assert found.mean == pytest.approx(0.7)
    assert found.deviation == pytest.approx(0.1)
    assert found.margin == pytest.approx(0.2484138, abs=1e-6)


def test_one_seed_has_a_mean_and_no_spread_and_none_has_nothing():
    alone = estimate([0.5])
    assert (alone.num, alone.mean, alone.deviation, alone.margin) == (1, 0.5, None, None)
    assert estimate([]) is None


def test_a_pair_of_settings_is_compared_over_common_seeds_only():
    # d = 0.1, 0.2, 0.3: mean 0.2, s = 0.1, t = 0.2 / (0.1 / 3**.5) = 3.464102.
    first = {0: 0.5, 1: 0.7, 2: 0.9, 7: 0.0}
    second = {0: 0.4, 1: 0.5, 2: 0.6, 9: 1.0}
    found = compare(first, second)
    assert found.num == 3
    assert found.difference == pytest.approx(0.2)
    assert found.margin == pytest.approx(0.2484138, abs=1e-6)
    assert found.p_t_test == pytest.approx(0.0741799, abs=1e-6)
    assert found.p_sign_test == pytest.approx(2 * 0.5**3)
    assert compare({0: 0.5}, {1: 0.5}) is None


def test_comparisons_agree_with_scipy():
    draws = random.Random(0)
    for num in (2, 3, 5, 10):
        first = {seed: draws.random() for seed in range(num)}
        second = {seed: draws.random() for seed in range(num)}
        found = compare(first, second)
        expected = stats.ttest_rel(list(first.values()), list(second.values()))
        interval = expected.confidence_interval(0.95)
        assert found.p_t_test == pytest.approx(expected.pvalue)
        assert found.difference - found.margin == pytest.approx(interval.low)
        assert found.difference + found.margin == pytest.approx(interval.high)
        wins = sum(first[seed] > second[seed] for seed in range(num))
        assert found.p_sign_test == pytest.approx(stats.binomtest(wins, num).pvalue)


def test_equal_differences_leave_the_t_test_undefined_and_ties_do_not_vote():
    same = compare({0: 0.5, 1: 0.5}, {0: 0.5, 1: 0.5})
    assert (same.difference, same.p_t_test, same.p_sign_test) == (0.0, None, 1.0)
    assert compare({0: 0.5}, {0: 0.25}).p_t_test is None


def test_several_tests_are_adjusted_as_holm_says():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_groups_leave_out_the_seed_and_nothing_else():
    other = {"training.learning_rate": 0.2, "seed": 0}
    rows = [row(1, 0, 0.9), row(2, 1, 0.7), row(3, 0, 0.6, settings=other), row(4, 0, 0.1, "ewc")]
    first, second, third = groups_over_seeds(rows)
    assert [each["rank"] for each in first.rows] == [1, 2]
    assert first.settings == {"training.learning_rate": 0.1}
    assert first.by_seed("score") == {0: 0.9, 1: 0.7}
    assert first.estimate("forgetting") is None
    assert (second.settings["training.learning_rate"], third.strategy) == (0.2, "ewc")


def test_where_no_two_rows_differ_in_the_seed_only_there_are_no_groups():
    assert groups_over_seeds([row(1, None, 0.9), row(2, None, 0.8, "ewc")]) == []
    assert groups_over_seeds([row(1, 0, 0.9), row(2, 0, 0.9)]) == []
    assert groups_over_seeds([]) == []


def test_groups_are_ranked_by_the_mean_over_seeds_and_bounds_come_last():
    rows = [
        row(1, 0, 0.9, "lucky"),
        row(2, 0, 0.8, "steady"),
        row(3, 1, 0.8, "steady"),
        row(4, 1, 0.2, "lucky"),
        row(5, 0, 0.99, "joint", tasks_done=1),
        row(6, 0, None, "broken", status="failed"),
    ]
    shuffled = rows[:]
    random.Random(1).shuffle(shuffled)
    assert [each.strategy for each in groups_over_seeds(shuffled)] == [
        "steady",
        "lucky",
        "joint",
        "broken",
    ]
    least = [{**each, "mode": "min"} for each in rows]
    assert [each.strategy for each in groups_over_seeds(least)][:2] == ["lucky", "steady"]


def test_a_trial_that_did_not_finish_is_in_its_group_and_not_in_its_mean():
    rows = [row(1, 0, 0.8), row(2, 1, 0.6), row(3, 2, 0.99, status="stopped")]
    (group,) = groups_over_seeds(rows)
    assert len(group.rows) == 3
    assert group.estimate("score").num == 2
    assert math.isclose(group.estimate("score").mean, 0.7)
