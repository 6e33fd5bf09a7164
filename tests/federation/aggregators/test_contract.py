"""What every aggregator is held to."""

import sys
from dataclasses import replace

import pytest
import torch

from federated import MODULES, factors, head, started, update
from lamina.core import generator_of
from lamina.federation.aggregators import aggregator_class, aggregator_names
from lamina.federation.aggregators.base import LinearAggregator, total
from lamina.federation.state import GlobalState, Scaling
from lamina.federation.update import gram_name
from lamina.registry import InputError


def made(name):
    return aggregator_class(name)(**({"byzantine": 0} if name == "krum" else {}))


def round_of(aggregator, state, round=0, number=5):
    """What clients would send in a round, at different tasks where they may be."""
    generator = generator_of(round, "grams")
    updates = []
    for i in range(number):
        trained = {**factors(10 * round + i), **head(10 * round + i, 4)}
        phase = f"task {i % 2}" if aggregator.by_task else aggregator.phase(round)
        grams = {}
        for module, (_, d_in) in MODULES.items():
            x = torch.randn(20, d_in, generator=generator)
            grams[gram_name(module)] = x.T @ x
        sent = {n: x for n, x in trained.items() if aggregator.sends(round, n)}
        updates.append(
            update(
                f"c{i}",
                sent,
                1 + i,
                round=round,
                phase=phase,
                summaries=grams if aggregator.needs_grams else {},
            )
        )
    return updates


@pytest.mark.parametrize("name", aggregator_names())
def test_the_order_of_arrival_changes_no_byte(name):
    aggregator, state = made(name), started()
    for round in range(2):
        updates = round_of(aggregator, state, round)
        after = aggregator.aggregate(state, updates)
        for shuffled in (updates[::-1], updates[2:] + updates[:2]):
            again = aggregator.aggregate(state, shuffled)
            assert again.digest() == after.digest()
            assert again.included == after.included
        state = after


@pytest.mark.parametrize("name", aggregator_names())
def test_a_round_without_updates_leaves_the_state_as_it_is(name):
    state = started()
    assert made(name).aggregate(state, []) is state


@pytest.mark.parametrize("name", [n for n in aggregator_names() if made(n).weighting == "rows"])
def test_a_client_without_rows_changes_nothing(name):
    aggregator, state = made(name), started()
    updates = round_of(aggregator, state)
    idle = replace(updates[0], client="z", num_rows=0)
    after = aggregator.aggregate(state, [*updates, idle])
    assert after.digest() == aggregator.aggregate(state, updates).digest()
    assert "z" not in after.included


@pytest.mark.parametrize("name", aggregator_names())
def test_what_comes_out_can_be_laid_and_keeps_types_and_shapes(name):
    aggregator, state = made(name), started()
    for round in range(2):
        state = aggregator.aggregate(state, round_of(aggregator, state, round))
        starting = aggregator.starting_tensors(
            state, task_key="task 1" if aggregator.by_task else None
        )
        for key, tensor in started().tensors.items():
            assert starting[key].shape == tensor.shape
            assert starting[key].dtype == torch.float32
            assert starting[key].isfinite().all()


@pytest.mark.parametrize(
    "name", [n for n in aggregator_names() if issubclass(aggregator_class(n), LinearAggregator)]
)
def test_a_linear_aggregator_needs_the_sum_only(name):
    aggregator, state = made(name), started()
    assert aggregator.linear
    updates = round_of(aggregator, state)
    halves = [
        total(aggregator.share(state, each) for each in part) for part in (updates[:2], updates[2:])
    ]
    summed = aggregator.finish(state, total(halves))
    for key, tensor in aggregator.aggregate(state, updates).tensors.items():
        torch.testing.assert_close(summed.tensors[key], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", aggregator_names())
def test_the_card_names_the_method_and_what_is_sent_and_kept(name):
    card = sys.modules[aggregator_class(name).__module__].__doc__
    assert card.splitlines()[0].count(")") >= 1
    assert "Sent:" in card
    assert "Kept at the client:" in card


def test_a_row_of_a_head_is_averaged_over_those_who_have_it():
    state = GlobalState(head(9, 2))
    updates = [update("a", head(0, 2), 1), update("b", head(1, 4), 3), update("c", head(2, 3), 2)]
    after = aggregator_class("fedit")().aggregate(state, updates).tensors["head.bias"]
    a, b, c = (each.tensors["head.bias"] for each in updates)
    torch.testing.assert_close(after[:2], (a + 3 * b[:2] + 2 * c[:2]) / 6)
    torch.testing.assert_close(after[2], (3 * b[2] + 2 * c[2]) / 5)
    torch.testing.assert_close(after[3], b[3])


@pytest.mark.parametrize("name", ["fedit", "flora", "median", "trimmed_mean"])
def test_rows_of_a_head_that_nobody_sent_stay(name):
    state = GlobalState({**factors(9), **head(9, 6)})
    updates = [update(f"c{i}", {**factors(i), **head(i, 3)}) for i in range(3)]
    after = made(name).aggregate(state, updates)
    assert torch.equal(after.tensors["head.weight"][3:], state.tensors["head.weight"][3:])
    assert not torch.equal(after.tensors["head.weight"][:3], state.tensors["head.weight"][:3])


@pytest.mark.parametrize("name", ["fedit", "flora", "fedex_lora", "flexlora", "median", "krum"])
def test_a_tasks_own_adapter_is_of_those_who_were_at_the_task(name):
    later = {"task_1.0.query": (5, 7)}
    state = GlobalState({**factors(9), **factors(8, modules=later)}, Scaling(3.0))
    both = {**factors(0), **factors(1, modules=later)}
    updates = [update("a", both), *[update(f"b{i}", factors(0)) for i in range(3)]]
    after = made(name).aggregate(state, updates)
    if name == "krum":
        assert after.included[0] != "a"
    else:
        changed = [k for k in both if not torch.equal(after.tensors[k], state.tensors[k])]
        assert any(key.startswith("task_1") for key in changed)


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "krum"])
def test_who_counts_clients_refuses_weights(name):
    with pytest.raises(InputError, match="equal"):
        aggregator_class(name)(weighting="rows")


def test_unknown_names_and_weights_are_refused():
    with pytest.raises(InputError, match="flora"):
        aggregator_class("florra")
    with pytest.raises(InputError, match="rows"):
        aggregator_class("fedit")(weighting="row")


def test_prompts_are_averaged_task_by_task_and_the_head_by_all():
    aggregator = aggregator_class("prompt_pool")()
    first = {"main.prompt_embeddings": torch.zeros(2, 3), "head.bias": torch.zeros(2)}
    state = GlobalState(first)
    sent = [
        update(
            client, {name: torch.full_like(x, value) for name, x in first.items()}, rows, phase=task
        )
        for client, value, rows, task in [
            ("a", 1.0, 1, "lights"),
            ("b", 5.0, 3, "lights"),
            ("c", -2.0, 4, "music"),
        ]
    ]
    after = aggregator.aggregate(state, sent)
    prompt = {
        task: aggregator.starting_tensors(after, task_key=task)["main.prompt_embeddings"]
        for task in ("lights", "music", "timers")
    }
    assert (prompt["lights"] == 4).all()
    assert (prompt["music"] == -2).all()
    assert (prompt["timers"] == 0).all()
    assert (aggregator.starting_tensors(after, task_key="timers")["head.bias"] == 1).all()
    again = aggregator.aggregate(after, [sent[2]])
    assert torch.equal(again.tensors["lights/main.prompt_embeddings"], prompt["lights"])
