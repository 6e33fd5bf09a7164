"""Successive halving: which trials go on, by projected accuracy and Pareto ranks. Nothing here
reads the test part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Literal

from lamina.evaluation.accuracy_matrix import Row
from lamina.evaluation.measures import better_of, measure_in

Cost = Literal["forgetting", "stored_parameters", "train_seconds", "train_flops"]
_KEYS: dict[Cost, str] = {
    "forgetting": "validation/forgetting",
    "stored_parameters": "cost/stored_parameters",
    "train_seconds": "cost/train_seconds",
    "train_flops": "cost/train_flops",
}
KNOWN_COSTS: tuple[Cost, ...] = tuple(_KEYS)
COSTS: tuple[Cost, ...] = ("forgetting", "stored_parameters", "train_seconds")
"""The costs that a rank weighs against projected accuracy unless a job says otherwise.

Seconds depend on the machine and on its other load. A job that wants the same survivors everywhere
names `train_flops` instead.
"""


@dataclass(frozen=True)
class Standing:
    """The numbers of a trial at a rung, by which trials are compared."""

    trial: str
    strategy: str
    projected_accuracy: float
    """See `projected_accuracy`; more is better, so a measure of which less is better is negative
    here."""
    costs: tuple[float, ...] = field(default=())
    """The trial's costs; less of each is better."""


def projected_accuracy(
    validation: Sequence[Row], num_tasks: int, better: Literal["max", "min"] = "max"
) -> float:
    """The average accuracy (or other measure, of which `better` says whether more or less is
    better) that a trial is heading for after all T = `num_tasks` tasks, given the rows R[0..t] of
    its validation matrix.

    A task loses d accuracy per further task, with d the mean over earlier tasks i < t of
    (R[i, i] - R[t, i]) / (t - i), and a new task is learned as well as the earlier ones were, with
    L = mean of R[i, i]. So a task i <= t ends at R[t, i] - d (T - 1 - t) and one to come at
    L - d (T - 1 - i), each cut to [0, 1] (where less is better, to what is not negative); the
    projection is the mean over all T. Plastic trials that lead early and forget fall back. After
    one task nothing is known of forgetting: d is 0.

    Tasks that cannot be asked are left out; 0, or infinity where less is better, where none can.
    """
    most = 1.0 if better == "max" else inf
    last = len(validation) - 1
    learned = {i: value for i in range(last + 1) if (value := validation[i][i]) is not None}
    now = {i: value for i in range(last + 1) if (value := validation[last][i]) is not None}
    if not now:
        return 0.0 if better == "max" else inf
    losses = [(learned[i] - now[i]) / (last - i) for i in learned if i in now and i < last]
    loss = sum(losses) / len(losses) if losses else 0.0
    ends = [value - loss * (num_tasks - 1 - last) for value in now.values()]
    if learned:
        level = sum(learned.values()) / len(learned)
        ends += [level - loss * (num_tasks - 1 - i) for i in range(last + 1, num_tasks)]
    return sum(min(max(end, 0.0), most) for end in ends) / len(ends)


def standing_of(
    trial: str,
    strategy: str,
    validation: Sequence[Row],
    metrics: Mapping[str, float],
    num_tasks: int,
    costs: Sequence[Cost] = COSTS,
) -> Standing:
    """How a trial stands after the tasks whose rows of R are given; `metrics` are those of its last
    report. A cost that is not reported counts as none."""
    paid = tuple(metrics.get(_KEYS[each], 0.0) for each in costs)
    better = better_of(measure_in(metrics))
    projected = projected_accuracy(validation, num_tasks, better)
    return Standing(trial, strategy, projected if better == "max" else -projected, paid)


def dominates(one: Standing, other: Standing) -> bool:
    """Whether `one` is nowhere worse than `other` and somewhere better."""
    first = (-one.projected_accuracy, *one.costs)
    second = (-other.projected_accuracy, *other.costs)
    return first != second and all(a <= b for a, b in zip(first, second, strict=True))


def pareto_ranks(standings: Sequence[Standing]) -> list[int]:
    """Non-dominated sorting (Deb et al., 2002): 0 for those that nobody dominates, 1 for those that
    nobody dominates once they are taken away, and so on.

    A front is found by one pass over what is left, so the whole is O(n^2) per front.
    """
    ranks = [-1] * len(standings)
    left = list(range(len(standings)))
    rank = 0
    while left:
        rivals = [standings[i] for i in left]
        for i in left:
            if not any(dominates(rival, standings[i]) for rival in rivals):
                ranks[i] = rank
        left = [i for i in left if ranks[i] < 0]
        rank += 1
    return ranks


def survivors(
    standings: Sequence[Standing], reduction_factor: int, stratify: bool = False
) -> set[str]:
    """The trials that go on: of n the best n / `reduction_factor`, rounded down, and one at least.

    By Pareto rank; within a rank by projected accuracy, then by name, so that equal standings give
    the same answer in any order. `stratify` halves the trials of each strategy by themselves, so
    that none is lost.
    """
    groups: dict[str, list[Standing]] = {}
    for each in standings:
        groups.setdefault(each.strategy if stratify else "", []).append(each)
    kept: set[str] = set()
    for group in groups.values():
        ranks = pareto_ranks(group)
        order = sorted(
            zip(ranks, group, strict=True),
            key=lambda pair: (pair[0], -pair[1].projected_accuracy, pair[1].trial),
        )
        number = max(len(group) // reduction_factor, 1)
        kept |= {each.trial for _, each in order[:number]}
    return kept
