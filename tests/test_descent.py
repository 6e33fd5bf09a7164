import math

import pytest
import torch

from lamina.core import generator_of
from lamina.descent import descend


def target():
    return torch.randn(3, 2, generator=generator_of(0, "target"))


def loss_of(tensors, step):
    return (tensors["weight"] - target()).square().sum() * (1 + step % 2)


def test_it_is_sgd_with_momentum_under_a_cosine():
    start = {"weight": torch.zeros(3, 2)}
    found = descend(start, loss_of, 6, 0.05, momentum=0.8, weight_decay=0.1)
    weight, velocity = torch.zeros(3, 2), torch.zeros(3, 2)
    for step in range(6):
        gradient = 2 * (weight - target()) * (1 + step % 2) + 0.1 * weight
        velocity = 0.8 * velocity + gradient
        weight = weight - 0.05 * (1 + math.cos(math.pi * step / 6)) / 2 * velocity
    torch.testing.assert_close(found["weight"], weight)


def test_it_goes_down_and_leaves_what_it_was_given():
    start = {"weight": torch.zeros(3, 2, requires_grad=True), "unused": torch.ones(2)}
    found = descend(start, loss_of, 100, 0.05)
    assert loss_of(found, 0) < 1e-3 * loss_of(start, 0)
    assert torch.equal(start["weight"], torch.zeros(3, 2))
    assert start["weight"].grad is None
    assert not found["weight"].requires_grad
    assert torch.equal(found["unused"], torch.ones(2))


def test_it_runs_where_gradients_are_off():
    with torch.no_grad():
        found = descend({"weight": torch.zeros(3, 2)}, loss_of, 10, 0.05)
    assert loss_of(found, 0) < loss_of({"weight": torch.zeros(3, 2)}, 0)


@pytest.mark.parametrize("start", [torch.zeros(3, 2), torch.ones(3, 2)])
def test_no_step_gives_a_copy(start):
    found = descend({"weight": start}, loss_of, 0, 0.05)["weight"]
    assert torch.equal(found, start)
    assert found.data_ptr() != start.data_ptr()
