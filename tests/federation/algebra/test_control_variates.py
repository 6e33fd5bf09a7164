"""SCAFFOLD against its paper, and on clients that pull apart."""

import torch

from federated import update
from lamina.federation.algebra.control_variates import (
    CONTROL,
    control_change,
    corrected,
    own_control,
    shared_control,
)

TARGETS = [torch.tensor([3.0, 0.0]), torch.tensor([-1.0, 4.0]), torch.tensor([0.0, -2.0])]
CURVATURES = [torch.tensor([1.0, 5.0]), torch.tensor([4.0, 0.5]), torch.tensor([0.2, 2.0])]
OPTIMUM = sum(c * t for c, t in zip(CURVATURES, TARGETS, strict=True)) / sum(CURVATURES)


def gradient(client, x):
    """Of curvature / 2 (x - target)^2."""
    return {"x": CURVATURES[client] * (x - TARGETS[client])}


def federate(rounds, steps, rate, *, scaffold):
    x, shared, own = torch.zeros(2), {}, [{}, {}, {}]
    for round in range(rounds):
        ends, updates = [], []
        for client in range(3):
            y = x.clone()
            for _ in range(steps):
                g = gradient(client, y)
                y = y - rate * (corrected(g, own[client], shared) if scaffold else g)["x"]
            new = own_control(own[client], shared, {"x": x}, {"x": y}, steps, rate)
            change = control_change(own[client], new)
            updates.append(update(f"c{client}", {"x": y}, round=round, summaries=change))
            own[client] = new
            ends.append(y)
        x = torch.stack(ends).mean(dim=0)
        shared = shared_control(shared, updates, num_clients=3)
    return x


def test_after_one_step_a_control_variate_is_the_clients_gradient():
    own, shared = {"x": torch.tensor([0.3, -1.0])}, {"x": torch.tensor([2.0, 0.1])}
    x, rate = torch.tensor([0.5, 0.5]), 0.05
    g = gradient(0, x)
    y = x - rate * corrected(g, own, shared)["x"]
    found = own_control(own, shared, {"x": x}, {"x": y}, 1, rate)
    torch.testing.assert_close(found["x"], g["x"], rtol=1e-4, atol=1e-4)


def test_scaffold_finds_the_optimum_that_averaging_misses():
    averaged = federate(150, 10, 0.1, scaffold=False)
    controlled = federate(150, 10, 0.1, scaffold=True)
    assert (averaged - OPTIMUM).norm() > 0.1
    assert (controlled - OPTIMUM).norm() < 1e-3


def test_the_shared_control_moves_by_the_share_that_took_part_whatever_the_order():
    shared = {"x": torch.ones(2)}
    updates = [
        update(f"c{i}", {}, summaries={f"{CONTROL}x": torch.full((2,), float(i))}) for i in range(4)
    ]
    found = shared_control(shared, updates, num_clients=10)
    torch.testing.assert_close(found["x"], torch.full((2,), 1 + 6 / 10))
    again = shared_control(shared, updates[::-1], num_clients=10)
    assert torch.equal(again["x"], found["x"])


def test_control_variates_of_a_head_grow_with_it():
    own = {"head.bias": torch.ones(2)}
    end = {"head.bias": torch.zeros(3)}
    found = own_control(own, {}, {"head.bias": torch.zeros(2)}, end, 1, 0.1)
    assert found["head.bias"].tolist() == [1, 1, 0]
    assert corrected({"head.bias": torch.zeros(3)}, own, {})["head.bias"].tolist() == [-1, -1, 0]
    assert control_change(own, found)[f"{CONTROL}head.bias"].tolist() == [0, 0, 0]
