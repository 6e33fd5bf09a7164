"""Server optimisers against their papers' formulas."""

from dataclasses import replace

import pytest
import torch

from federated import clients, factors, started, update
from lamina.federation.aggregators import aggregator_class
from lamina.federation.optimisers import server_optimiser_class, server_optimiser_names
from lamina.federation.state import GlobalState
from lamina.registry import InputError

X = torch.tensor([1.0, -2.0, 0.5])
DIFFERENCES = [torch.tensor([0.1, -0.3, 0.0]), torch.tensor([-0.2, 0.4, 1.0])]


def run(optimiser):
    """x after two rounds whose averaged differences are DIFFERENCES."""
    state = GlobalState({"x": X})
    for difference in DIFFERENCES:
        after = replace(state, tensors={"x": state.tensors["x"] + difference})
        state = optimiser.apply(state, after)
    return state


def test_fedavgm_is_a_heavy_ball():
    found = run(server_optimiser_class("fedavgm")(momentum=0.5, learning_rate=2.0))
    first, second = DIFFERENCES
    torch.testing.assert_close(found.tensors["x"], X + 2 * first + 2 * (0.5 * first + second))


def test_without_momentum_fedavgm_is_the_average():
    state, updates = started(), clients()
    after = aggregator_class("fedit")().aggregate(state, updates)
    moved = server_optimiser_class("fedavgm")(momentum=0.0).apply(state, after)
    for name, tensor in after.tensors.items():
        torch.testing.assert_close(moved.tensors[name], tensor)


@pytest.mark.parametrize("name", ["fedadam", "fedyogi"])
def test_the_adaptive_ones_correct_no_bias(name):
    optimiser = server_optimiser_class(name)(0.1, beta_1=0.9, beta_2=0.99, tau=1e-2)
    m, v, x = torch.zeros(3), torch.zeros(3), X
    for d in DIFFERENCES:
        m = 0.9 * m + 0.1 * d
        if name == "fedadam":
            v = 0.99 * v + 0.01 * d**2
        else:
            v = v - 0.01 * d**2 * torch.sign(v - d**2)
        x = x + 0.1 * m / (v.sqrt() + 1e-2)
    found = run(optimiser)
    torch.testing.assert_close(found.tensors["x"], x)
    torch.testing.assert_close(found.optimiser_state["v:x"].float(), v)


@pytest.mark.parametrize("name", server_optimiser_names())
def test_a_factor_that_nobody_sent_does_not_move(name):
    optimiser, aggregator = server_optimiser_class(name)(), aggregator_class("rolora")()
    state = started()
    for round in range(4):
        updates = [
            update(
                f"c{i}",
                {n: x for n, x in factors(10 * round + i).items() if aggregator.sends(round, n)},
            )
            for i in range(3)
        ]
        after = optimiser.apply(state, aggregator.aggregate(state, updates))
        for key, tensor in state.tensors.items():
            sent = ".lora_" in key and aggregator.sends(round, key)
            assert torch.equal(after.tensors[key], tensor) != sent
        state = after


@pytest.mark.parametrize("name", server_optimiser_names())
def test_an_empty_round_moves_nothing(name):
    optimiser = server_optimiser_class(name)()
    state = optimiser.apply(GlobalState({"x": X}), GlobalState({"x": X + 1}))
    again = optimiser.apply(state, aggregator_class("fedit")().aggregate(state, []))
    assert torch.equal(again.tensors["x"], state.tensors["x"])
    assert all(
        torch.equal(again.optimiser_state[key], m) for key, m in state.optimiser_state.items()
    )


@pytest.mark.parametrize("name", server_optimiser_names())
def test_a_heads_new_rows_are_taken_as_they_are(name):
    optimiser = server_optimiser_class(name)()
    state = optimiser.apply(GlobalState({"head.bias": X}), GlobalState({"head.bias": X + 1}))
    wide = torch.cat([state.tensors["head.bias"] + 1, torch.tensor([7.0])])
    grown = optimiser.apply(state, replace(state, tensors={"head.bias": wide}))
    assert grown.tensors["head.bias"][3] == 7
    assert not torch.equal(grown.tensors["head.bias"][:3], state.tensors["head.bias"])
    optimiser.apply(grown, replace(grown, tensors={"head.bias": wide + 1}))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("fedavgm", {"momentum": 1.0}),
        ("fedavgm", {"learning_rate": 0.0}),
        ("fedadam", {"beta_2": -0.1}),
        ("fedyogi", {"tau": 0.0}),
    ],
)
def test_settings_that_cannot_be_are_refused(name, settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        server_optimiser_class(name)(**settings)
