"""Clients are sampled independently, clipped as one vector, summed, and hidden in noise."""

import math

import pytest
import torch

from lamina.core import generator_of
from lamina.federation.privacy.client_level import (
    ClientPrivacy,
    clipped,
    difference,
    noisy_mean,
    norm_of,
    sample_clients,
)
from lamina.registry import InputError

PRIVACY = ClientPrivacy(clip=1.0, noise_multiplier=0.5, sampling_rate=0.1, num_clients=200)


def test_sampling_is_poisson():
    clients = [f"client {n}" for n in range(200)]
    rounds = [sample_clients(clients, 0.1, seed=3, round_=n) for n in range(300)]
    sizes = torch.tensor([float(len(each)) for each in rounds])
    # Binomial(200, 0.1): mean 20, variance 18; four standard errors.
    assert abs(sizes.mean() - 20) < 4 * (18 / 300) ** 0.5
    assert abs(sizes.var() - 18) < 4 * 18 * (2 / 300) ** 0.5
    times = torch.tensor([float(sum(name in each for each in rounds)) for name in clients])
    assert abs(times - 30).max() < 5 * (300 * 0.09) ** 0.5
    together = sum(clients[0] in each and clients[1] in each for each in rounds)
    assert together < 12


def test_sampling_is_repeatable_keeps_the_order_and_differs_between_rounds():
    clients = [f"client {n}" for n in range(50)]
    first = sample_clients(clients, 0.3, seed=1, round_=0)
    assert first == sample_clients(clients, 0.3, seed=1, round_=0)
    assert first == sorted(first, key=clients.index)
    assert first != sample_clients(clients, 0.3, seed=1, round_=1)
    assert sample_clients(clients, 1.0, seed=1, round_=0) == clients
    assert sample_clients([], 0.5, seed=1, round_=0) == []


def test_an_update_is_clipped_as_one_vector():
    start = {"a": torch.ones(2), "b": torch.ones(1)}
    update = difference({"a": torch.tensor([4.0, 1.0]), "b": torch.tensor([5.0])}, start)
    assert norm_of(update) == 5.0
    small = clipped(update, 1.0)
    assert norm_of(small) == pytest.approx(1.0)
    torch.testing.assert_close(small["a"], update["a"] / 5)
    torch.testing.assert_close(small["b"], update["b"] / 5)
    assert torch.equal(clipped(update, 7.0)["a"], update["a"])
    assert norm_of(clipped({"a": torch.zeros(3)}, 1.0)) == 0.0


def test_an_update_that_is_not_finite_is_refused():
    for bad in (math.nan, math.inf):
        with pytest.raises(InputError, match="not finite"):
            clipped({"a": torch.tensor([1.0, bad])}, 1.0)


def test_the_released_mean_is_the_sum_over_the_expected_number_of_clients():
    quiet = ClientPrivacy(clip=1.0, noise_multiplier=0.0, sampling_rate=0.1, num_clients=200)
    assert torch.equal(
        noisy_mean({"a": torch.tensor([40.0])}, quiet, 0, 0)["a"],
        torch.tensor([2.0], dtype=torch.float64),
    )


def test_the_noise_has_the_deviation_that_was_asked_for_and_is_white():
    total = {"a": torch.zeros(20_000), "b": torch.zeros(100, 200)}
    released = noisy_mean(total, PRIVACY, seed=5, round_=1)
    deviation = 0.5 * 1.0 / 20
    for value in released.values():
        assert abs(value.std() - deviation) < 4 * deviation / 40_000**0.5
        assert abs(value.mean()) < 4 * deviation / 20_000**0.5
    joint = torch.stack([released["a"], released["b"].flatten()])
    assert abs(torch.corrcoef(joint)[0, 1]) < 4 / 20_000**0.5
    wider = noisy_mean(total, PRIVACY, seed=5, round_=1, sensitivity=3.0)
    torch.testing.assert_close(wider["a"], 3 * released["a"])


def test_the_noise_is_that_of_its_seed_and_round():
    total = {"a": torch.randn(5, generator=generator_of(0))}
    first = noisy_mean(total, PRIVACY, seed=5, round_=1)["a"]
    assert torch.equal(first, noisy_mean(total, PRIVACY, seed=5, round_=1)["a"])
    assert not torch.equal(first, noisy_mean(total, PRIVACY, seed=5, round_=2)["a"])
    assert not torch.equal(first, noisy_mean(total, PRIVACY, seed=6, round_=1)["a"])


@pytest.mark.parametrize(
    "wrong",
    [{"clip": 0.0}, {"noise_multiplier": -1.0}, {"sampling_rate": 0.0}, {"num_clients": 0}],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    good = {"clip": 1.0, "noise_multiplier": 1.0, "sampling_rate": 0.5, "num_clients": 4}
    with pytest.raises(InputError, match=next(iter(wrong))):
        ClientPrivacy(**{**good, **wrong})
