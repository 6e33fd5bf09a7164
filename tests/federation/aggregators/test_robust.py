"""Robust rules against naive loops, and against attackers."""

import pytest
import torch

from federated import MODULES, clients, factors, head, product, started, update
from lamina.core import generator_of
from lamina.federation.aggregators import aggregator_class
from lamina.federation.algebra.lowrank import factors_of, inner_products
from lamina.federation.algebra.robust import krum_scores, trimmed, update_distances
from lamina.federation.state import GlobalState, Scaling
from lamina.federation.update import LORA_A, LORA_B
from lamina.registry import InputError


@pytest.mark.parametrize("number", [1, 2, 5, 6])
def test_the_median_is_the_middle_value(number):
    updates = [update(f"c{i}", {**factors(i), **head(i, 4)}) for i in range(number)]
    after = aggregator_class("median")().aggregate(started(), updates)
    for name, tensor in after.tensors.items():
        values = torch.stack([each.tensors[name] for each in updates]).double()
        torch.testing.assert_close(tensor, values.quantile(0.5, dim=0).float())


def test_the_trimmed_mean_cuts_both_ends():
    updates = [update(f"c{i:02}", head(i, 4)) for i in range(10)]
    after = aggregator_class("trimmed_mean")(trim=0.2).aggregate(started(), updates)
    values = torch.stack([each.tensors["head.weight"] for each in updates])
    expected = values.sort(dim=0).values[2:8].double().mean(dim=0).float()
    torch.testing.assert_close(after.tensors["head.weight"], expected)


def test_rows_that_some_do_not_have_are_trimmed_among_those_who_do():
    parts = [torch.tensor([float(i), 10.0 * i])[: 1 if i < 2 else 2] for i in range(5)]
    middle = trimmed(parts, lambda count: (count - 1) // 2)
    assert middle.tolist() == [2.0, 30.0]


def test_inner_products_of_updates_need_no_dense_matrix():
    scaling = Scaling(6.0, 0.5)
    parts = [factors(i, rank) for i, rank in enumerate((3, 8, 2, 1))]
    for module in MODULES:
        found = inner_products([factors_of(each, module, scaling) for each in parts])
        dense = torch.stack([product(each, module, scaling).flatten() for each in parts])
        torch.testing.assert_close(found, dense @ dense.T, rtol=1e-12, atol=1e-12)


def test_distances_are_those_of_the_whole_update():
    state, updates = started(), clients((3, 2, 3))
    found = update_distances(state, [each.tensors for each in updates])
    for i, first in enumerate(updates):
        for j, second in enumerate(updates):
            pairs = [
                [product(each.tensors, m, state.scaling) for each in (first, second)]
                for m in MODULES
            ]
            pairs += [
                [each.tensors[n].double() for each in (first, second)]
                for n in ("head.weight", "head.bias")
            ]
            expected = sum((x - y).square().sum() for x, y in pairs)
            torch.testing.assert_close(found[i, j], expected, rtol=1e-9, atol=1e-9)


def gauged(tensors, seed):
    """The same update in other factors: B R and R^-1 A."""
    generator = generator_of(seed, "gauge")
    result = {}
    for name, a in tensors.items():
        if name.endswith(LORA_A):
            b = tensors[name.replace(LORA_A, LORA_B)]
            r = torch.randn(len(a), len(a), generator=generator, dtype=torch.float64)
            result[name] = torch.linalg.solve(r, a.double()).float()
            result[name.replace(LORA_A, LORA_B)] = (b.double() @ r).float()
    return result


def besieged():
    """Seven honest clients of one mind, each in a gauge of its own, and three who agree on its
    opposite."""
    shapes = {"main.0.query": (32, 24)}
    truth = factors(0, 4, shapes)
    noises = [factors(50 + i, 4, shapes) for i in range(7)]
    honest = [
        gauged({n: x + 0.05 * noise[n] for n, x in truth.items()}, i)
        for i, noise in enumerate(noises)
    ]
    flipped = {n: -3 * x if n.endswith(LORA_B) else x for n, x in truth.items()}
    updates = [update(f"h{i}", each) for i, each in enumerate(honest)]
    updates += [update(f"x{i}", flipped) for i in range(3)]
    return GlobalState(factors(99, 4, shapes), Scaling(4.0)), updates


def test_krum_on_updates_ranks_colluding_flippers_last_and_krum_on_factors_first():
    state, updates = besieged()
    parts = [each.tensors for each in updates]
    ranked = krum_scores(update_distances(state, parts), 3).argsort().tolist()
    assert set(ranked[-3:]) == {7, 8, 9}
    flat = torch.stack([torch.cat([x.flatten() for x in each.values()]) for each in parts]).double()
    by_factors = krum_scores(torch.cdist(flat, flat).square(), 3).argsort().tolist()
    assert set(by_factors[:3]) == {7, 8, 9}


@pytest.mark.parametrize("selected", [1, 4])
def test_krum_takes_the_honest(selected):
    state, updates = besieged()
    after = aggregator_class("krum")(byzantine=3, selected=selected).aggregate(state, updates)
    assert len(after.included) == selected
    assert all(client.startswith("h") for client in after.included)
    module = "main.0.query"
    truth = product(factors(0, 4, {module: (32, 24)}), module, state.scaling)
    found = product(after.tensors, module, state.scaling)
    assert (found - truth).norm() / truth.norm() < 0.15


def test_krum_keeps_the_state_when_too_few_came():
    state, updates = besieged()
    after = aggregator_class("krum")(byzantine=4).aggregate(state, updates)
    assert after.digest() == state.digest()
    assert after.included == ()


def test_an_update_of_fewer_classes_counts_as_not_having_moved_the_others():
    state = GlobalState(head(9, 4))
    wide, narrow = head(0, 4), {n: x[:2] for n, x in head(0, 4).items()}
    found = update_distances(state, [wide, narrow])[0, 1]
    missing = sum((wide[n][2:] - state.tensors[n][2:]).double().square().sum() for n in wide)
    torch.testing.assert_close(found, missing)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("trimmed_mean", {"trim": 0.5}), ("krum", {"byzantine": -1}), ("krum", {"selected": 9})],
)
def test_settings_that_cannot_be_are_refused(name, settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        aggregator_class(name)(**settings)
