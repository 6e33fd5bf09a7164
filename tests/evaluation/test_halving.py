"""Who goes on when a sweep is halved, against naive versions."""

import random
from itertools import permutations

import pytest

from lamina.evaluation.halving import (
    Standing,
    dominates,
    pareto_ranks,
    projected_accuracy,
    standing_of,
    survivors,
)


def some_standings(number, seed=0, strategies=("er", "ewc")):
    """Standings with few different values, so that there are ties."""
    draw = random.Random(seed)
    return [
        Standing(
            f"trial {place}",
            strategies[place % len(strategies)],
            draw.randrange(4) / 4,
            tuple(float(draw.randrange(3)) for _ in range(3)),
        )
        for place in range(number)
    ]


def naive_ranks(standings):
    """A trial's rank is one more than the worst of those that dominate it: the longest chain."""

    def rank(one):
        above = [rank(other) for other in standings if naive_dominates(other, one)]
        return 1 + max(above, default=-1)

    return [rank(each) for each in standings]


def naive_dominates(one, other):
    better = one.projected_accuracy > other.projected_accuracy
    worse = one.projected_accuracy < other.projected_accuracy
    for first, second in zip(one.costs, other.costs, strict=True):
        better, worse = better or first < second, worse or first > second
    return better and not worse


@pytest.mark.parametrize("seed", range(5))
def test_ranks_are_the_lengths_of_the_longest_chains_of_domination(seed):
    standings = some_standings(24, seed)
    assert pareto_ranks(standings) == naive_ranks(standings)
    assert max(pareto_ranks(standings)) > 1


@pytest.mark.parametrize("seed", range(3))
def test_domination_is_better_somewhere_and_worse_nowhere(seed):
    standings = some_standings(12, seed)
    for one in standings:
        for other in standings:
            assert dominates(one, other) == naive_dominates(one, other)


def test_survivors_come_by_rank_then_by_projected_accuracy_then_by_name():
    standings = [
        Standing("dear and good", "er", 0.9, (10.0,)),
        Standing("cheap and poor", "er", 0.3, (1.0,)),
        Standing("dearer and second", "er", 0.8, (11.0,)),
        Standing("b", "er", 0.5, (5.0,)),
        Standing("a", "er", 0.5, (5.0,)),
    ]
    assert survivors(standings, 5) == {"dear and good"}
    assert survivors(standings, 2) == {"dear and good", "a"}


@pytest.mark.parametrize(
    ("number", "factor", "left"), [(16, 2, 8), (13, 3, 4), (3, 4, 1), (1, 2, 1)]
)
def test_one_in_so_many_goes_on_and_one_at_least(number, factor, left):
    assert len(survivors(some_standings(number), factor)) == left


def test_the_order_in_which_trials_come_changes_nothing():
    standings = some_standings(5)
    assert len({frozenset(survivors(order, 2)) for order in permutations(standings)}) == 1


def test_stratified_every_strategy_keeps_its_best():
    standings = [
        *(Standing(f"er {place}", "er", 0.9 - place / 100, (1.0,)) for place in range(4)),
        *(Standing(f"ewc {place}", "ewc", 0.2 - place / 100, (1.0,)) for place in range(2)),
    ]
    assert survivors(standings, 2) == {"er 0", "er 1", "er 2"}
    assert survivors(standings, 2, stratify=True) == {"er 0", "er 1", "ewc 0"}


def naive_projection(rows, num_tasks):
    t = len(rows) - 1
    drops = [(rows[i][i] - rows[t][i]) / (t - i) for i in range(t)]
    d = sum(drops) / t if t else 0.0
    level = sum(rows[i][i] for i in range(t + 1)) / (t + 1)
    total = 0.0
    for i in range(num_tasks):
        end = rows[t][i] - d * (num_tasks - 1 - t) if i <= t else level - d * (num_tasks - 1 - i)
        total += min(1.0, max(0.0, end))
    return total / num_tasks


@pytest.mark.parametrize("seed", range(4))
def test_the_projection_goes_on_with_the_forgetting_seen_so_far(seed):
    draw = random.Random(seed)
    rows = [[draw.random() if i <= t else None for i in range(6)] for t in range(3)]
    for seen in (1, 2, 3):
        assert projected_accuracy(rows[:seen], 6) == pytest.approx(naive_projection(rows[:seen], 6))


def test_after_the_last_task_the_projection_is_the_average_accuracy():
    rows = [[0.9, None], [0.5, 0.7]]
    assert projected_accuracy(rows, 2) == pytest.approx(0.6)


def test_a_plastic_trial_that_leads_early_is_passed_by_a_stable_one():
    plastic = [[0.95, None, None, None], [0.75, 0.95, None, None]]
    stable = [[0.80, None, None, None], [0.79, 0.80, None, None]]
    assert sum(plastic[1][:2]) > sum(stable[1][:2])
    assert projected_accuracy(plastic, 4) < projected_accuracy(stable, 4)


def test_tasks_that_cannot_be_asked_are_left_out():
    assert projected_accuracy([[None, None]], 2) == 0.0
    assert projected_accuracy([[None, None], [None, 0.8]], 2) == pytest.approx(0.8)


def test_a_standing_is_made_of_validation_and_costs_and_never_of_the_test_part():
    metrics = {
        "validation/forgetting": 0.1,
        "test/forgetting": 0.9,
        "cost/stored_parameters": 20.0,
        "cost/train_seconds": 3.0,
        "cost/train_flops": 4.0,
    }
    rows = [[0.9, None], [0.5, 0.7]]
    assert standing_of("a", "er", rows, metrics, 2) == Standing(
        "a", "er", pytest.approx(0.6), (0.1, 20.0, 3.0)
    )
    cheap = standing_of("a", "er", rows, metrics, 2, ("train_flops",))
    assert cheap.costs == (4.0,)
    assert standing_of("a", "er", rows[:1], {}, 2).costs == (0.0, 0.0, 0.0)
