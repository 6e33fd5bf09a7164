"""The parts together: a round of client-level privacy under a secure sum and a budget."""

import pytest
import torch

from lamina.core import generator_of
from lamina.federation.privacy.accounting import Accountant, BudgetError
from lamina.federation.privacy.client_level import (
    ClientPrivacy,
    clipped,
    difference,
    noisy_mean,
    sample_clients,
)
from lamina.federation.privacy.combine import SecureSum, sum_of

CLIENTS = [f"client {n}" for n in range(12)]
START = {"a": torch.zeros(40), "b": torch.zeros(3, 4)}


def found_by(client: str) -> dict[str, torch.Tensor]:
    generator = generator_of(0, client)
    return {name: torch.randn(value.shape, generator=generator) for name, value in START.items()}


def private_round(privacy, settings, round_):
    """The released change of the global state, and who was sampled."""
    sampled = sample_clients(CLIENTS, privacy.sampling_rate, seed=0, round_=round_)
    updates = {
        client: clipped(difference(found_by(client), START), privacy.clip) for client in sampled
    }
    total = sum_of(sampled, updates, settings, 0, round_).total
    bound = settings.quantiser.sensitivity(privacy.clip, 52)
    return noisy_mean(total, privacy, 0, round_, bound), sampled


def test_a_private_round_moves_the_state_by_the_mean_of_clipped_updates():
    privacy = ClientPrivacy(
        clip=1.0, noise_multiplier=0.0, sampling_rate=0.75, num_clients=len(CLIENTS)
    )
    released, sampled = private_round(privacy, SecureSum("real", bits=20), 0)
    assert 2 < len(sampled) < 12
    for name, value in released.items():
        updates = [clipped(found_by(client), 1.0)[name] for client in sampled]
        torch.testing.assert_close(value, torch.stack(updates).sum(dim=0) / 9, atol=1e-5, rtol=0)


def test_the_mode_of_the_sum_does_not_move_a_private_round():
    privacy = ClientPrivacy(
        clip=1.0, noise_multiplier=1.0, sampling_rate=0.75, num_clients=len(CLIENTS)
    )
    real, _ = private_round(privacy, SecureSum("real"), 1)
    ideal, _ = private_round(privacy, SecureSum("ideal"), 1)
    assert all(torch.equal(real[name], ideal[name]) for name in real)


def test_poisson_sampled_rounds_fit_a_budget_that_others_exceed():
    privacy = ClientPrivacy(
        clip=1.0, noise_multiplier=1.0, sampling_rate=0.1, num_clients=len(CLIENTS)
    )
    accountant = Accountant(delta=1e-5, max_epsilon=4.0)
    assert accountant.spend(privacy.release(poisson=True)) < 4.0
    with pytest.raises(BudgetError):
        Accountant(delta=1e-5, max_epsilon=4.0).spend(privacy.release(poisson=False))
