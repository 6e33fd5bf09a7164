"""Epsilon is what dp-accounting says of known cases, and a budget is checked before a release."""

import json

import pytest

from lamina.federation.privacy.accounting import Accountant, BudgetError, Release, noise_for
from lamina.registry import InputError


def spent(*releases: tuple[float, float, int]) -> Accountant:
    accountant = Accountant(delta=1e-5)
    for noise, rate, times in releases:
        accountant.spend(Release(noise, rate), times)
    return accountant


def test_epsilon_of_poisson_sampled_rounds_is_the_known_one():
    accountant = spent((1.0, 0.1, 100))
    assert accountant.epsilon() == pytest.approx(7.047, abs=5e-4)
    assert accountant.renyi_epsilon() == pytest.approx(7.904, abs=5e-4)


def test_epsilon_of_many_rarely_sampled_rounds_is_the_known_one():
    assert spent((1.0, 0.01, 1000)).epsilon() == pytest.approx(1.828, abs=1e-3)


def test_without_poisson_sampling_nothing_is_amplified():
    accountant = spent((1.0, 1.0, 100))
    assert accountant.renyi_epsilon() == pytest.approx(96.1, abs=0.05)
    assert accountant.epsilon() == pytest.approx(91.817, abs=2e-3)


def test_noise_for_a_wanted_epsilon_is_the_known_one():
    noise = noise_for(3.0, delta=1e-5, sampling_rate=0.1, times=100)
    assert noise == pytest.approx(1.6747, abs=2e-4)
    assert spent((noise, 0.1, 100)).epsilon() <= 3.0


def test_releases_that_are_not_sampled_add_as_one_gaussian():
    assert spent((2.0, 1.0, 4)).epsilon() == spent((1.0, 1.0, 1)).epsilon()
    assert spent((1.0, 1.0, 1)).epsilon() == pytest.approx(4.3772, abs=1e-3)


def test_different_releases_compose_in_any_order():
    first = spent((1.0, 0.1, 5), (2.0, 0.2, 5), (4.0, 1.0, 1))
    second = spent((4.0, 1.0, 1), (2.0, 0.2, 3), (1.0, 0.1, 5), (2.0, 0.2, 2))
    assert first.epsilon() == second.epsilon() > spent((1.0, 0.1, 5)).epsilon()


def test_a_release_over_the_budget_is_refused_before_it_happens():
    accountant = Accountant(delta=1e-5, max_epsilon=2.0)
    release = Release(1.0, 0.1)
    before = 0.0
    while accountant.epsilon(release) <= 2.0:
        before = accountant.spend(release)
    times = accountant.releases[release]
    with pytest.raises(BudgetError, match="so far it is") as refused:
        accountant.spend(release)
    assert refused.value.epsilon == accountant.epsilon() == before <= 2.0
    assert 0 < accountant.releases[release] == times
    accountant.spend(Release(100.0, 0.1))


def test_an_accountant_goes_on_from_its_json():
    accountant = spent((1.0, 0.1, 3), (2.0, 1.0, 1))
    state = json.loads(json.dumps(accountant.state_dict()))
    again = Accountant.from_state(state)
    assert again == accountant
    assert again.spend(Release(1.0, 0.1)) == accountant.spend(Release(1.0, 0.1))


def test_nothing_released_costs_nothing():
    assert Accountant(1e-5).epsilon() == Accountant(1e-5).renyi_epsilon() == 0.0


def test_releases_without_noise_or_with_impossible_settings_are_refused():
    with pytest.raises(InputError, match="no epsilon"):
        Release(0.0)
    with pytest.raises(InputError, match="sampling_rate"):
        Release(1.0, 1.5)
    with pytest.raises(InputError, match="delta"):
        Accountant(0.0)
