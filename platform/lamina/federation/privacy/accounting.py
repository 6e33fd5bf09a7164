"""The privacy accountant: what releases have cost so far, and whether another one fits into the
budget. It computes (epsilon, delta) by dp-accounting: privacy loss distributions for the number,
Renyi for a cross-check."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache, reduce
from typing import Any

from lamina.federation.privacy.extra import privacy_module
from lamina.registry import InputError

STEP = 1e-3
"""The grid of privacy losses. Rounding on it is pessimistic, so epsilon is an upper bound; ten
times finer moves it in the fifth digit and costs ten times the time."""


@dataclass(frozen=True, order=True)
class Release:
    """One Gaussian release: a sum to which each unit (client, or row) adds at most the clip."""

    noise_multiplier: float
    """z, the noise's standard deviation over the clip."""
    sampling_rate: float = 1.0
    """q, where each unit really is in the sum with this probability, independently of the others
    (Poisson sampling): only then does sampling amplify. 1 for any other choice of units."""

    def __post_init__(self) -> None:
        if not (self.noise_multiplier > 0 and math.isfinite(self.noise_multiplier)):
            raise InputError(
                f"privacy.noise_multiplier: {self.noise_multiplier} is not positive, "
                "so no epsilon bounds what is released"
            )
        if not 0 < self.sampling_rate <= 1:
            raise InputError(f"privacy.sampling_rate: {self.sampling_rate} is not in (0, 1]")


class BudgetError(InputError):
    """A release would exceed the budget. It must not happen; `epsilon` is what was spent before."""

    def __init__(self, epsilon: float, would_be: float, budget: float) -> None:
        super().__init__(
            f"privacy.max_epsilon: the next release would make epsilon {would_be:.4g}, "
            f"more than {budget:.4g}; so far it is {epsilon:.4g}"
        )
        self.epsilon = epsilon


@dataclass
class Accountant:
    """The releases of a run. Under add-or-remove-one adjacency of units where they are Poisson
    sampled; where they are not, of a unit's contribution with nothing (zero-out adjacency)."""

    delta: float
    """The probability with which epsilon may fail to hold: well below one over the units."""
    max_epsilon: float | None = None
    """The budget; without it, releases are only counted."""
    releases: Counter[Release] = field(default_factory=Counter)
    """How often each kind of release happened."""

    def __post_init__(self) -> None:
        if not 0 < self.delta < 1:
            raise InputError(f"privacy.delta: {self.delta} is not in (0, 1)")

    def epsilon(self, release: Release | None = None, times: int = 1) -> float:
        """The epsilon of all releases so far, and of `release` after them if one is given."""
        releases = self._with(release, times)
        return _pld_epsilon(_key_of(releases), self.delta) if releases else 0.0

    def renyi_epsilon(self) -> float:
        """The same epsilon by Renyi differential privacy: never much below `epsilon`, usually
        above."""
        if not self.releases:
            return 0.0
        accounting = privacy_module("dp_accounting")
        accountant = privacy_module("dp_accounting.rdp").RdpAccountant()
        for release, times in sorted(self.releases.items()):
            mechanism = accounting.GaussianDpEvent(release.noise_multiplier)
            if release.sampling_rate < 1:
                mechanism = accounting.PoissonSampledDpEvent(release.sampling_rate, mechanism)
            accountant.compose(mechanism, times)
        return float(accountant.get_epsilon(self.delta))

    def spend(self, release: Release, times: int = 1) -> float:
        """Record a release that is about to happen, and return epsilon after it.

        Raises BudgetError, and records nothing, if it would exceed the budget.
        """
        after = self.epsilon(release, times)
        if self.max_epsilon is not None and after > self.max_epsilon:
            raise BudgetError(self.epsilon(), after, self.max_epsilon)
        self.releases[release] += times
        return after

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON: what a checkpoint of a round keeps."""
        return {
            "delta": self.delta,
            "max_epsilon": self.max_epsilon,
            "releases": [
                {**asdict(release), "times": times}
                for release, times in sorted(self.releases.items())
            ],
        }

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> "Accountant":
        """The accountant that `state_dict` described."""
        releases = Counter(
            {
                Release(each["noise_multiplier"], each["sampling_rate"]): int(each["times"])
                for each in state["releases"]
            }
        )
        return Accountant(state["delta"], state["max_epsilon"], releases)

    def _with(self, release: Release | None, times: int) -> Counter[Release]:
        return self.releases + Counter({release: times} if release else {})


def noise_for(epsilon: float, delta: float, sampling_rate: float, times: int) -> float:
    """The smallest noise multiplier (to 1e-4) whose `times` releases cost at most `epsilon`."""

    def cost(noise: float) -> float:
        key = _key_of(Counter({Release(noise, sampling_rate): times}))
        return _pld_epsilon(key, delta)

    return _smallest(lambda noise: cost(noise) <= epsilon, tolerance=1e-4)


def _smallest(is_enough: Callable[[float], bool], tolerance: float) -> float:
    """The least positive number for which a monotone property holds, from above, by bisection."""
    low, high = 0.0, 1.0
    while not is_enough(high):
        low, high = high, 2 * high
    while high - low > tolerance:
        middle = (low + high) / 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


_Key = tuple[tuple[Release, int], ...]


def _key_of(releases: Counter[Release]) -> _Key:
    """The same releases in a canonical order, with those that are not sampled merged into one: T
    Gaussians of z_t are exactly one of (sum_t z_t^-2)^(-1/2)."""
    whole = sum(
        times / release.noise_multiplier**2
        for release, times in sorted(releases.items())
        if release.sampling_rate == 1
    )
    sampled = [each for each in sorted(releases.items()) if each[0].sampling_rate < 1]
    return (*([(Release(whole**-0.5), 1)] if whole else []), *sampled)


@lru_cache(maxsize=4096)
def _pld_epsilon(key: _Key, delta: float) -> float:
    losses = [_loss_distribution(release).self_compose(times) for release, times in key]
    composed = reduce(lambda first, second: first.compose(second), losses)
    return float(composed.get_epsilon_for_delta(delta))


@lru_cache(maxsize=256)
def _loss_distribution(release: Release) -> Any:
    return privacy_module("dp_accounting.pld.privacy_loss_distribution").from_gaussian_mechanism(
        release.noise_multiplier,
        sampling_prob=release.sampling_rate,
        value_discretization_interval=STEP,
    )
