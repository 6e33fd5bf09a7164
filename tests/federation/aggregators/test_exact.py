"""Aggregators of LoRA factors against the weighted mean of the products, PEFT, and each other."""

import peft
import pytest
import torch
from transformers import AutoModel

from federated import (
    MODULES,
    clients,
    factors,
    head,
    mean_product,
    modules,
    product,
    started,
    update,
    whole_update,
)
from lamina.federation.aggregators import aggregator_class
from lamina.federation.algebra.lowrank import factors_of, product_svd
from lamina.federation.algebra.products import stack_of
from lamina.federation.state import GlobalState, Scaling
from lamina.federation.update import LORA_A, LORA_B

SCALINGS = [Scaling(6.0), Scaling(6.0, 0.5), Scaling(2.0, 0.0)]


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("ranks", [(3, 3, 3), (4, 8, 2)])
def test_flora_is_the_weighted_mean_of_the_products_at_any_ranks(ranks, scaling):
    state = started(max(ranks), scaling)
    updates = clients(ranks)
    after = aggregator_class("flora")().aggregate(state, updates)
    for module in modules(state):
        expected = mean_product(updates, module, scaling)
        assert relative(whole_update(after, module), expected) < 1e-6


@pytest.mark.parametrize("scaling", SCALINGS)
def test_fedex_is_the_weighted_mean_of_the_products(scaling):
    state, updates = started(scaling=scaling), clients()
    after = aggregator_class("fedex_lora")().aggregate(state, updates)
    for module in modules(state):
        expected = mean_product(updates, module, scaling)
        assert relative(whole_update(after, module), expected) < 1e-6


@pytest.mark.parametrize("name", ["flora", "fedex_lora"])
def test_the_ledger_adds_up_over_rounds(name):
    aggregator, state = aggregator_class(name)(), started()
    for round in range(3):
        before = {
            m: whole_update(state, m) - product(state.tensors, m, state.scaling) for m in MODULES
        }
        updates = [update(f"c{i}", factors(10 * round + i), 1 + i, round=round) for i in range(4)]
        state = aggregator.aggregate(state, updates)
        for module in MODULES:
            expected = before[module] + mean_product(updates, module, state.scaling)
            assert relative(whole_update(state, module), expected) < 1e-6
    assert state.discarded == {}


def test_flora_starts_anew_alike_for_all_and_otherwise_each_round():
    aggregator, state = aggregator_class("flora")(), started()
    first = aggregator.aggregate(state, clients())
    name = "main.0.query"
    assert not first.tensors[name + LORA_B].any()
    assert first.tensors[name + LORA_A].abs().max() <= 6**-0.5
    again = aggregator.aggregate(state, clients()[::-1])
    assert again.digest() == first.digest()
    later = aggregator.aggregate(first, [update("a", factors(0), round=1)])
    assert not torch.equal(later.tensors[name + LORA_A], first.tensors[name + LORA_A])


@pytest.mark.parametrize(
    ("name", "phase", "round"), [("ffa_lora", "b", 3), ("rolora", "b", 0), ("rolora", "a", 1)]
)
def test_with_one_factor_common_the_mean_is_exact(name, phase, round):
    aggregator, state = aggregator_class(name)(), started()
    assert aggregator.phase(round) == phase
    sent = [n for n in state.tensors if aggregator.sends(round, n)]
    trained = ".lora_B." if phase == "b" else ".lora_A."
    assert {n for n in sent if ".lora_" in n} == {n for n in state.tensors if trained in n}
    full = clients()
    updates = [
        update(u.client, {n: u.tensors[n] for n in sent}, u.num_rows, phase=phase) for u in full
    ]
    after = aggregator.aggregate(state, updates)
    frozen = {n: x for n, x in state.tensors.items() if n not in sent}
    assert all(after.tensors[n] is x for n, x in frozen.items())
    whole = [update(u.client, {**u.tensors, **frozen}, u.num_rows) for u in updates]
    for module in modules(state):
        expected = mean_product(whole, module, state.scaling)
        assert relative(whole_update(after, module), expected) < 1e-6


def test_fedit_is_the_mean_of_the_factors_and_not_of_the_products():
    state, updates = started(), clients()
    after = aggregator_class("fedit")().aggregate(state, updates)
    for name, tensor in after.tensors.items():
        expected = sum(u.num_rows * u.tensors[name].double() for u in updates) / 8
        torch.testing.assert_close(tensor, expected.float())
    module = "main.0.query"
    expected = mean_product(updates, module, state.scaling)
    assert relative(whole_update(after, module), expected) > 0.5


def test_fedsa_shares_a_and_leaves_b_with_its_client():
    aggregator, state = aggregator_class("fedsa_lora")(), started()
    updates = clients()
    own = {n: x for n, x in updates[0].tensors.items() if aggregator.keeps(n)}
    assert own.keys() == {m + LORA_B for m in MODULES}
    sent = [
        update(u.client, {n: x for n, x in u.tensors.items() if aggregator.sends(0, n)}, u.num_rows)
        for u in updates
    ]
    after = aggregator.aggregate(state, sent)
    assert all(after.tensors[n] is state.tensors[n] for n in own)
    starting = aggregator.starting_tensors(after, own)
    for module in MODULES:
        assert starting[module + LORA_B] is own[module + LORA_B]
        mean = sum(u.num_rows * u.tensors[module + LORA_A] for u in updates) / 8
        torch.testing.assert_close(starting[module + LORA_A], mean)


@pytest.mark.parametrize("ranks", [(4, 4, 4), (4, 8, 2)])
@pytest.mark.parametrize("rslora", [False, True])
def test_flora_is_pefts_concatenation(tiny_bert_folder, ranks, rslora):
    alpha, weights = 6.0, [0.2, 0.5, 0.3]
    model = AutoModel.from_pretrained(tiny_bert_folder)
    generator = torch.Generator().manual_seed(0)
    updates, wrapped = [], None
    for i, rank in enumerate(ranks):
        config = peft.LoraConfig(
            r=rank, lora_alpha=alpha, target_modules=["query", "value"], use_rslora=rslora
        )
        if wrapped is None:
            wrapped = peft.get_peft_model(model, config, "client_0")
        else:
            wrapped.add_adapter(f"client_{i}", config)
        tensors = {}
        for name, tensor in wrapped.named_parameters():
            if f".client_{i}." in name:
                tensor.data.copy_(torch.randn(tensor.shape, generator=generator))
                plain = name.removeprefix("base_model.model.").replace(f".client_{i}", "")
                tensors["main." + plain] = tensor.detach().clone()
        updates.append(update(f"client_{i}", tensors, int(10 * weights[i])))
    names = [each.client for each in updates]
    wrapped.add_weighted_adapter(names, weights, "merged", combination_type="cat")
    start = {n: torch.zeros_like(t) for n, t in updates[1].tensors.items()}
    state = GlobalState(start, Scaling(alpha, 0.5 if rslora else 1.0))
    after = aggregator_class("flora")().aggregate(state, updates)
    for module in modules(state):
        layer = wrapped.base_model.model.get_submodule(module.removeprefix("main."))
        expected = layer.get_delta_weight("merged").detach().double()
        if rslora:
            # PEFT sets alpha = r, which is scale 1 for a LoRA, but the merged adapter is an rsLoRA
            # too: it comes out scaled by r / sqrt(r).
            expected = expected / sum(ranks) ** 0.5
        single = [w * layer.get_delta_weight(n) for w, n in zip(weights, names, strict=True)]
        assert relative(expected, sum(single).detach().double()) < 1e-6
        assert relative(whole_update(after, module), expected) < 1e-6


@pytest.mark.parametrize("ranks", [(3, 3, 3), (4, 8, 2)])
def test_flexlora_is_the_dense_svd_of_the_mean(ranks):
    state, updates = started(max(ranks)), clients(ranks)
    after = aggregator_class("flexlora")(by_slice=False).aggregate(state, updates)
    for module in modules(state):
        u, s, vh = torch.linalg.svd(mean_product(updates, module, state.scaling))
        rank = min(max(ranks), len(s))
        expected = (u[:, :rank] * s[:rank]) @ vh[:rank]
        assert relative(whole_update(after, module), expected) < 1e-6


@pytest.mark.parametrize("shape", [(10, 6), (4, 9), (3, 3), (30, 40)])
def test_the_svd_of_factors_is_that_of_their_product(shape):
    tensors = factors(0, 8, {"m": shape})
    scaling = Scaling(1.0, 0.0)
    u, s, vh = product_svd(factors_of(tensors, "m", scaling))
    dense = product(tensors, "m", scaling)
    torch.testing.assert_close((u * s) @ vh, dense, rtol=0, atol=1e-12)
    expected = torch.linalg.svdvals(dense)[: len(s)]
    torch.testing.assert_close(s, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rank", [2, 4])
def test_a_client_of_a_smaller_rank_gets_the_leading_terms_under_its_own_scale(rank):
    aggregator = aggregator_class("flexlora")()
    state = aggregator.aggregate(started(4), clients((4, 4, 4)))
    starting = aggregator.starting_tensors(state, rank=rank)
    for module in modules(state):
        u, s, vh = torch.linalg.svd(whole_update(state, module))
        expected = (u[:, :rank] * s[:rank]) @ vh[:rank]
        assert len(starting[module + LORA_A]) == rank
        assert relative(product(starting, module, state.scaling), expected) < 1e-5


def test_high_ranks_fade_without_the_weights_per_slice_and_stay_with_them():
    ranks = (4, 2, 2, 2)
    for by_slice, kept in ((True, 1.0), (False, 0.25**5)):
        aggregator = aggregator_class("flexlora")(by_slice=by_slice)
        state = aggregator.aggregate(started(4), clients((4, 4, 4)))
        module = "main.0.query"
        first = torch.linalg.svdvals(whole_update(state, module))
        for round in range(5):
            idle = [
                update(f"c{i}", aggregator.starting_tensors(state, rank=rank), round=round)
                for i, rank in enumerate(ranks)
            ]
            state = aggregator.aggregate(state, idle)
        last = torch.linalg.svdvals(whole_update(state, module))
        torch.testing.assert_close(last[:2], first[:2], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(last[2:4], kept * first[2:4], rtol=1e-4, atol=1e-6)


def test_at_equal_ranks_the_slices_weigh_alike():
    updates = clients()
    parts, weights = [u.tensors for u in updates], [float(u.num_rows) for u in updates]
    plain = stack_of(parts, weights, "main.0.query", Scaling())
    by_slice = stack_of(parts, weights, "main.0.query", Scaling(), by_slice=True)
    torch.testing.assert_close(by_slice, plain)


def test_an_untrained_direction_of_flexlora_can_still_be_learned():
    state = started(4)
    lone = update("a", {**factors(0, 1), **head(0, 4)})
    after = aggregator_class("flexlora")().aggregate(state, [lone])
    for module in modules(state):
        a, b = after.tensors[module + LORA_A], after.tensors[module + LORA_B]
        assert a.shape == state.tensors[module + LORA_A].shape
        assert not b[:, 1:].any()
        assert (a.norm(dim=1) > 0.1).all()
        expected = product(lone.tensors, module, state.scaling)
        assert relative(whole_update(after, module), expected) < 1e-6


@pytest.mark.parametrize("name", ["flora", "fedex_lora", "flexlora"])
def test_of_one_client_the_update_is_its_own(name):
    state, updates = started(), clients()[:1]
    after = aggregator_class(name)().aggregate(state, updates)
    for module in modules(state):
        expected = product(updates[0].tensors, module, state.scaling)
        assert relative(whole_update(after, module), expected) < 1e-6
