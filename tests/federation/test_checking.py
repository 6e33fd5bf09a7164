"""The door: every kind of bad update is counted and refused, and the others come through."""

from dataclasses import replace

import pytest
import torch

from federated import clients, started
from lamina.federation.aggregators import aggregator_class
from lamina.federation.checking import Expected, admit, problem_of

STATE = started()
EXPECTED = Expected(0, "both", STATE.tensors, STATE.digest())
NAME = "main.0.query.lora_A.weight"


def sound():
    return [replace(each, base=STATE.digest()) for each in clients()]


def with_tensor(update, tensor, name=NAME):
    return replace(update, tensors={**update.tensors, name: tensor})


def without(update, name=NAME):
    return replace(update, tensors={n: x for n, x in update.tensors.items() if n != name})


def wrapped(update):
    return replace(update, tensors={f"_module.{n}": x for n, x in update.tensors.items()})


BAD = [
    ("not finite", lambda u: with_tensor(u, torch.full((3, 6), float("nan")))),
    ("not finite", lambda u: with_tensor(u, torch.full((3, 6), float("inf")))),
    ("shape", lambda u: with_tensor(u, torch.ones(4, 6))),
    ("shape", lambda u: with_tensor(u, torch.ones(6, 3))),
    ("shape", lambda u: with_tensor(u, torch.ones(3), "head.bias")),
    ("shape", lambda u: with_tensor(u, torch.ones(5, 6), "head.weight")),
    ("type", lambda u: with_tensor(u, torch.ones(3, 6, dtype=torch.float64))),
    ("missing", without),
    ("unknown", lambda u: with_tensor(u, torch.ones(3), "rows")),
    ("unknown", lambda u: replace(u, summaries={"rows": torch.ones(3)})),
    ("prefix", wrapped),
    ("phase", lambda u: replace(u, phase="b")),
    ("base", lambda u: replace(u, base="0" * 64)),
    ("round", lambda u: replace(u, round=3)),
    ("rows", lambda u: replace(u, num_rows=-1)),
    ("not asked", lambda u: replace(u, client="stranger")),
]


@pytest.mark.parametrize(("reason", "spoil"), BAD)
def test_a_bad_update_is_counted_and_refused_and_the_round_goes_on(reason, spoil):
    first, second, third = sound()
    expected = dict.fromkeys(("client_0", "client_1", "client_2"), EXPECTED)
    found = admit([first, spoil(second), third], expected)
    assert [each.client for each in found.accepted] == ["client_0", "client_2"]
    assert found.tally() == {reason: 1}
    assert found.refusals[0].message
    after = aggregator_class("fedit")().aggregate(STATE, found.accepted)
    alone = aggregator_class("fedit")().aggregate(STATE, [first, third])
    assert after.digest() == alone.digest()


def test_an_update_that_comes_twice_counts_once():
    updates = sound()
    expected = {each.client: EXPECTED for each in updates}
    found = admit([updates[1], *updates, updates[1]], expected)
    assert [each.client for each in found.accepted] == [each.client for each in updates]
    assert found.tally() == {"duplicate": 2}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_different_updates_of_one_client_neither_is_taken(order):
    updates = sound()
    expected = {each.client: EXPECTED for each in updates}
    other = with_tensor(updates[0], torch.zeros(3, 6))
    pair = [updates[0], other]
    found = admit([pair[order[0]], updates[1], updates[2], pair[order[1]]], expected)
    assert [each.client for each in found.accepted] == ["client_1", "client_2"]
    assert found.tally() == {"conflict": 2}


def test_a_bad_copy_does_not_spoil_a_good_one():
    updates = sound()
    expected = {each.client: EXPECTED for each in updates}
    bad = with_tensor(updates[0], torch.full((3, 6), float("nan")))
    found = admit([bad, *updates], expected)
    assert len(found.accepted) == 3
    assert found.tally() == {"not finite": 1}


def test_numbers_that_are_finite_but_whose_sum_is_not_are_let_in():
    large = with_tensor(sound()[0], torch.full((3, 6), torch.finfo(torch.float32).max))
    assert not large.tensors[NAME].sum().isfinite()
    assert problem_of(large, EXPECTED) is None


def test_a_head_may_come_back_with_new_classes():
    grown = with_tensor(
        with_tensor(sound()[0], torch.ones(6, 5), "head.weight"), torch.ones(6), "head.bias"
    )
    assert problem_of(grown, EXPECTED) is None


def test_where_older_states_are_taken_the_base_is_not_compared():
    stale = replace(sound()[0], base="0" * 64)
    assert problem_of(stale, replace(EXPECTED, base=None)) is None


def test_summaries_come_whole_or_not_at_all():
    asked = replace(EXPECTED, summaries=("count", "total"))
    update = sound()[0]
    both = replace(update, summaries={"count": torch.ones(2), "total": torch.ones(2, 3)})
    assert problem_of(update, asked) is None
    assert problem_of(both, asked) is None
    half = problem_of(replace(update, summaries={"count": torch.ones(2)}), asked)
    assert half is not None
    assert half[0] == "missing"
    spoiled = {"count": torch.ones(2), "total": torch.full((2, 3), float("nan"))}
    found = problem_of(replace(update, summaries=spoiled), asked)
    assert found is not None
    assert found[0] == "not finite"


def test_all_may_be_refused():
    bad = [without(each) for each in sound()]
    found = admit(bad, {each.client: EXPECTED for each in bad})
    assert found.accepted == ()
    assert aggregator_class("fedit")().aggregate(STATE, found.accepted) is STATE
