"""Admission: every kind of bad update is counted and refused, and the others are accepted."""

from dataclasses import fields, replace

import pytest
import torch

from federated import clients, started
from lamina.federation.aggregators import aggregator_class
from lamina.federation.checking import (
    Expected,
    Slot,
    admit,
    expected_of,
    leaving,
    problem_of,
    slots_of,
)
from lamina.federation.update import ClientUpdate
from lamina.registry import InputError

STATE = started()
SLOTS = slots_of(STATE.tensors)
EXPECTED = Expected(0, "both", SLOTS, STATE.digest(), {})
SUMS = {"count": torch.ones(2), "total": torch.ones(2, 3)}
NAME = "main.0.query.lora_A.weight"
ROWS = torch.randint(100, (7, 9))
TEXT = "turn on the light"
LONG = int.from_bytes(TEXT.encode(), "big")


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
    ("rows", lambda u: replace(u, num_rows=LONG)),
    ("rows", lambda u: replace(u, num_rows=[3, 7])),
    ("round", lambda u: replace(u, round=TEXT)),
    ("phase", lambda u: replace(u, phase=TEXT)),
    ("base", lambda u: replace(u, base=TEXT)),
    ("metrics", lambda u: replace(u, metrics={TEXT: 1.0})),
    ("metrics", lambda u: replace(u, metrics={"loss": TEXT})),
    ("metrics", lambda u: replace(u, metrics={"loss": LONG})),
    ("not finite", lambda u: replace(u, metrics={"loss": float("nan")})),
    ("type", lambda u: with_tensor(u, ROWS[:3, :6])),
    ("type", lambda u: with_tensor(u, [TEXT])),
    ("type", lambda u: with_tensor(u, torch.zeros(3, 6).to_sparse())),
    ("shape", lambda u: with_tensor(u, torch.ones(7, 3, 6))),
    ("shape", lambda u: with_tensor(u, torch.ones(6, 5), "head.weight")),
    ("unknown", lambda u: with_tensor(u, ROWS, "inputs")),
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


def test_summaries_come_as_they_were_declared_or_not_at_all():
    asked = replace(EXPECTED, summaries=slots_of(SUMS))
    update = sound()[0]
    assert problem_of(replace(update, summaries=SUMS), asked) is None
    for reason, spoilt in (
        ("missing", {}),
        ("missing", {"count": torch.ones(2)}),
        ("unknown", {**SUMS, "rows": ROWS}),
        ("shape", {**SUMS, "total": torch.ones(7, 3)}),
        ("shape", {**SUMS, "total": torch.ones(1, 3)}),
        ("type", {**SUMS, "total": torch.ones(2, 3, dtype=torch.int64)}),
        ("not finite", {**SUMS, "total": torch.full((2, 3), float("nan"))}),
    ):
        found = problem_of(replace(update, summaries=spoilt), asked)
        assert found is not None
        assert found[0] == reason


def test_every_field_of_an_update_is_checked():
    checked = {"client", "round", "tensors", "num_rows", "phase", "base", "summaries", "metrics"}
    assert {each.name for each in fields(ClientUpdate)} == checked


@pytest.mark.parametrize(("reason", "spoil"), BAD)
def test_what_holds_more_than_was_asked_for_does_not_even_leave(reason, spoil):
    honest = sound()[1]
    assert leaving(honest, EXPECTED) is honest
    spoilt = spoil(honest)
    if reason in ("not finite", "not asked"):
        # A step that diverged shows nobody's rows: the server counts it.
        assert leaving(spoilt, EXPECTED) is spoilt
    else:
        with pytest.raises(InputError, match=rf"may not leave it \({reason}\)"):
            leaving(spoilt, EXPECTED)


def test_a_client_may_send_what_its_aggregator_and_its_rank_say():
    lorm, flora = aggregator_class("lorm")(), aggregator_class("flora")()
    grams = expected_of(lorm, STATE, "base", 0, None, None, controls=False).summaries
    assert grams["gram:main.0.query"] == Slot((6, 6), torch.float32)
    ranked = expected_of(flora, STATE, "base", 0, 2, None, controls=False).tensors
    assert ranked[NAME].shape == (2, 6)
    rolora = expected_of(aggregator_class("rolora")(), STATE, "base", 1, None, None, controls=True)
    assert rolora.phase == "a"
    assert not any("lora_B" in name for name in (*rolora.tensors, *rolora.summaries))
    assert rolora.summaries.keys() == {f"control:{name}" for name in rolora.tensors}


def test_all_may_be_refused():
    bad = [without(each) for each in sound()]
    found = admit(bad, {each.client: EXPECTED for each in bad})
    assert found.accepted == ()
    assert aggregator_class("fedit")().aggregate(STATE, found.accepted) is STATE
