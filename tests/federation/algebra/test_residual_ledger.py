"""The ledger on a real backbone, and its cap."""

import torch

from federated import factors, product, started, update, whole_update
from lamina.adapters import kind_class
from lamina.adapters.kinds.lora import concatenate
from lamina.adapters.merging import weighted_lora
from lamina.adapters.model import AdaptedModel
from lamina.core import generator_of
from lamina.federation.aggregators import aggregator_class
from lamina.federation.algebra.residual_ledger import as_lora, ledger_rank
from lamina.federation.state import GlobalState, Scaling
from lamina.federation.update import digest_of


def test_a_ledger_laid_over_the_backbone_is_the_clients_sum_and_touches_nothing(
    tiny_bert, sentences
):
    kind = kind_class("lora")(rank=4, alpha=6.0)
    generator = generator_of(0, "ledger")
    weights, of_clients = [1, 3], []
    for _ in weights:
        new = kind.initialise(tiny_bert, generator)
        of_clients.append(
            {n: x + 0.2 * torch.randn(x.shape, generator=generator) for n, x in new.items()}
        )
    start = {f"main.{n}": x for n, x in kind.initialise(tiny_bert, generator).items()}
    state = GlobalState(start, Scaling(kind.alpha))
    updates = [
        update(f"c{i}", {f"main.{n}": x for n, x in each.items()}, w)
        for i, (each, w) in enumerate(zip(of_clients, weights, strict=True))
    ]
    backbone_before = digest_of(tiny_bert.model.state_dict())
    for name in ("flora", "fedex_lora"):
        after = aggregator_class(name)().aggregate(state, updates)
        model = AdaptedModel(tiny_bert, kind, seed=0)
        main = model.add()
        for key, tensor in main.tensors.items():
            tensor.data.copy_(after.tensors[f"main.{key}"])
        bare = model(sentences.inputs).features
        starting = as_lora(after.ledger, kind)
        assert starting.keys() == {"main"}
        model.keep("ledger", kind, starting["main"])
        found = model(sentences.inputs).features
        oracle = AdaptedModel(tiny_bert, kind, seed=0)
        oracle.keep("sum", kind, weighted_lora(of_clients, [0.25, 0.75]))
        expected = oracle(sentences.inputs).features
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(bare, expected, rtol=1e-2, atol=1e-2)
        as_one = AdaptedModel(tiny_bert, kind, seed=0)
        as_one.keep("one", kind, concatenate(main.tensors, starting["main"]))
        one = as_one(sentences.inputs).features
        torch.testing.assert_close(one, expected, rtol=1e-5, atol=1e-5)
        assert set(model.parameters()) == {f"main.{n}" for n in main.tensors}
    assert digest_of(tiny_bert.model.state_dict()) == backbone_before


def test_a_cap_keeps_the_nearest_sum_and_records_what_it_cost():
    module = "main.0.query"
    shapes = {module: (20, 12)}
    state = GlobalState(factors(9, 3, shapes), Scaling(6.0))
    updates = [update(f"c{i}", factors(i, 3, shapes)) for i in range(3)]
    capped = aggregator_class("flora")(ledger_rank=4).aggregate(state, updates)
    assert ledger_rank(capped.ledger) == 4
    dense = sum(product(each.tensors, module, state.scaling) for each in updates) / 3
    u, s, vh = torch.linalg.svd(dense, full_matrices=False)
    nearest = (u[:, :4] * s[:4]) @ vh[:4]
    torch.testing.assert_close(whole_update(capped, module), nearest, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(capped.discarded[module], float(s[4:].square().sum()))
    again = aggregator_class("flora")(ledger_rank=4).aggregate(capped, updates)
    assert again.discarded[module] > capped.discarded[module]


def test_a_ledger_never_outgrows_its_matrix():
    state, aggregator = started(), aggregator_class("flora")()
    for round in range(4):
        updates = [update(f"c{i}", factors(10 * round + i), round=round) for i in range(4)]
        state = aggregator.aggregate(state, updates)
    ranks = {n: len(x) for n, x in state.ledger.items() if "lora_A" in n}
    assert sorted(ranks.values()) == [3, 4, 6]
