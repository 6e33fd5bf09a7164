"""Trials that differ in their seed only, taken together: the mean of a setting with its spread, and
two settings compared over the seeds that both have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb, sqrt
from statistics import fmean, stdev
from typing import Any

from scipy.special import stdtr, stdtrit

from lamina.evaluation.leaderboard import Row, precedence

SEED = "seed"
"""The key of a job, and of a row's settings, that groups are made over."""
LEVEL = 0.95
"""How often an interval holds the true mean, where the numbers are normally distributed."""


@dataclass(frozen=True)
class Estimate:
    """The mean of a number over seeds."""

    num: int
    """n, the number of seeds."""
    mean: float
    """m = (1/n) sum_k x_k."""
    deviation: float | None
    """Sample standard deviation, s = sqrt((1/(n-1)) sum_k (x_k - m)^2); None of a single seed."""
    margin: float | None
    """Half of the interval m +- q s / sqrt(n), with q the (1 + `LEVEL`) / 2 quantile of Student's t
    with n - 1 degrees of freedom; None of a single seed."""


def estimate(values: Sequence[float]) -> Estimate | None:
    """The mean of `values` and how sure it is; None of no values."""
    num = len(values)
    if num == 0:
        return None
    mean = fmean(values)
    if num == 1:
        return Estimate(1, mean, None, None)
    deviation = stdev(values, mean)
    quantile = float(stdtrit(num - 1, (1 + LEVEL) / 2))
    return Estimate(num, mean, deviation, quantile * deviation / sqrt(num))


@dataclass(frozen=True)
class Group:
    """The trials of one setting."""

    strategy: str
    adapter: str | None
    scenario: str
    settings: Mapping[str, Any]
    """The settings that distinguish the group: those of its trials without the seed."""
    rows: tuple[Row, ...]
    """Its trials, by rank."""

    @property
    def finished(self) -> tuple[Row, ...]:
        """The trials that learned every task: an average over fewer is a different number."""
        return tuple(row for row in self.rows if row["status"] == "finished")

    def by_seed(self, key: str) -> dict[Any, float]:
        """A column of the finished trials by their seed, where it is defined."""
        return {
            row["settings"].get(SEED): row[key] for row in self.finished if row.get(key) is not None
        }

    def estimate(self, key: str) -> Estimate | None:
        """A column over the seeds; None where no trial has it."""
        return estimate(list(self.by_seed(key).values()))


def groups_over_seeds(rows: Sequence[Row]) -> list[Group]:
    """The groups of a leaderboard's rows, best first; none where no two rows differ in the seed
    only.

    Rows are of one group where strategy, adapter, scenario, stream, backbone and all settings but
    the seed are equal. Groups are ordered as trials are, by the mean of the metric that ranks: see
    `leaderboard`.
    """
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(_key(row), []).append(row)
    if all(len({row["settings"].get(SEED) for row in those}) == 1 for those in found.values()):
        return []
    return sorted((_group(those) for those in found.values()), key=_order)


def _key(row: Row) -> str:
    same = ("strategy", "adapter", "scenario", "stream", "backbone")
    return repr([[row[each] for each in same], sorted(_without_seed(row).items(), key=str)])


def _without_seed(row: Row) -> dict[str, Any]:
    return {key: value for key, value in row["settings"].items() if key != SEED}


def _group(rows: Sequence[Row]) -> Group:
    first = rows[0]
    return Group(
        strategy=first["strategy"],
        adapter=first["adapter"],
        scenario=first["scenario"],
        settings=_without_seed(first),
        rows=tuple(sorted(rows, key=lambda row: row["rank"])),
    )


def _order(group: Group) -> tuple[Any, ...]:
    first = group.rows[0]
    score = group.estimate("score")
    return (
        not group.finished,
        -max(row["tasks_done"] for row in group.rows),
        *precedence(
            None if score is None else score.mean,
            first.get("mode", "max"),
            first["trainable_parameters"],
            first["name"],
            first["trial"],
        ),
    )


@dataclass(frozen=True)
class Comparison:
    """Two settings over the seeds that both have: d_k = first_k - second_k."""

    num: int
    """n, how many seeds they share."""
    difference: float
    """The mean of d."""
    margin: float | None
    """Half of the interval of that mean, as in `Estimate`."""
    p_t_test: float | None
    """Of the paired t test, two-sided: 2 F(-|t|), t = mean(d) / (s_d / sqrt(n)), F the distribution
    function of Student's t with n - 1 degrees of freedom; None where s_d is 0 or n is 1."""
    p_sign_test: float
    """Of the exact sign test, two-sided, which asks nothing of the distribution: with m differences
    that are not 0 and b the smaller number of equal sign, min(1, 2 sum_{i<=b} C(m, i) / 2^m)."""


def compare(first: Mapping[Any, float], second: Mapping[Any, float]) -> Comparison | None:
    """Compare two settings, each a number by seed; None where they share no seed.

    Pairs take out what both have in common with a seed: its split, its order of tasks, its luck.
    """
    differences = [first[seed] - second[seed] for seed in first if seed in second]
    found = estimate(differences)
    if found is None:
        return None
    p_t_test = None
    if found.deviation:
        t = found.mean / (found.deviation / sqrt(found.num))
        p_t_test = 2.0 * float(stdtr(found.num - 1, -abs(t)))
    return Comparison(found.num, found.mean, found.margin, p_t_test, _sign_test(differences))


def _sign_test(differences: Sequence[float]) -> float:
    positive = sum(each > 0 for each in differences)
    negative = sum(each < 0 for each in differences)
    number, fewer = positive + negative, min(positive, negative)
    return min(1.0, 2.0 * sum(comb(number, i) for i in range(fewer + 1)) / 2.0**number)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm (1979): p values of several tests, adjusted so that the chance of any false finding
    among them stays below the level that an adjusted value is held against.

    With p_(1) <= ... <= p_(m), the k-th becomes max_{j<=k} min(1, (m - j + 1) p_(j)).
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    ascending = sorted(range(len(p_values)), key=lambda place: p_values[place])
    for tests_left, place in zip(range(len(p_values), 0, -1), ascending, strict=True):
        largest = max(largest, min(1.0, tests_left * p_values[place]))
        adjusted[place] = largest
    return adjusted
