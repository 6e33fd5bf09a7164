"""Only named tensors of a known shape leave a client: whatever smuggles rows is refused."""

from dataclasses import fields, replace

import pytest
import torch

from lamina.core import Summary
from lamina.federation.privacy.schema import UpdateSchema, declared_sums
from lamina.federation.privacy.wire import tensors_to_bytes, update_from_bytes, update_to_bytes
from lamina.federation.update import ClientUpdate, digest_of
from lamina.memory.gaussian import class_sums
from lamina.registry import InputError
from lamina.strategies import strategy_class

ROWS = torch.randint(100, (7, 9))
TENSORS = {"main.lora_A": torch.randn(2, 4), "head.weight": torch.randn(3, 4)}
SUMS = class_sums(torch.randn(7, 4), torch.tensor([0, 1, 2, 0, 1, 2, 0]), 3)
UPDATE = ClientUpdate(
    client="client 0",
    round=2,
    tensors=TENSORS,
    num_rows=7,
    phase="both",
    base=digest_of(TENSORS),
    summaries=SUMS,
    metrics={"loss": 0.5},
)
SCHEMA = UpdateSchema.of(
    TENSORS, SUMS, clients=["client 0", "client 1"], phases=["both"], metrics=["loss"]
)


def test_an_update_of_the_model_and_its_declared_sums_may_leave():
    SCHEMA.check(UPDATE)
    SCHEMA.check(replace(UPDATE, metrics={}))


@pytest.mark.parametrize(
    ("smuggled", "key"),
    [
        ({"tensors": {**TENSORS, "inputs": ROWS}}, "update.tensors: 'inputs' is unknown"),
        ({"tensors": {**TENSORS, "ids": torch.arange(7)}}, "update.tensors: 'ids' is unknown"),
        ({"summaries": {**SUMS, "rows": ROWS}}, "update.summaries: 'rows' is unknown"),
        ({"summaries": {**SUMS, "total": torch.randn(7, 4)}}, r"total is \(7, 4\)"),
        ({"tensors": {**TENSORS, "main.lora_A": torch.randn(7, 2, 4)}}, r"\(7, 2, 4\)"),
        ({"tensors": {**TENSORS, "main.lora_A": ROWS[:2, :4]}}, "int64"),
        ({"tensors": {**TENSORS, "head.weight": ["turn on the light"]}}, "no .dense. tensor"),
        ({"metrics": {"turn on the light": 1.0}}, "update.metrics"),
        ({"metrics": {"loss": "turn on the light"}}, "not a number"),
        ({"metrics": {"loss": [0.1, 0.2]}}, "not a number"),
        ({"phase": "turn on the light"}, "update.phase"),
        ({"base": "turn on the light"}, "update.base"),
        ({"client": "turn on the light"}, "update.client"),
        ({"client": ["client 0", "turn on the light"]}, "update.client"),
        ({"metrics": {"loss": int.from_bytes(b"turn on the light", "big")}}, "not a number"),
        ({"num_rows": int.from_bytes(b"turn on the light", "big")}, "update.num_rows"),
        ({"tensors": {**TENSORS, "head.weight": torch.zeros(3, 4).to_sparse()}}, "no .dense."),
        ({"num_rows": [3, 7]}, "update.num_rows"),
        ({"round": "turn on the light"}, "update.round"),
    ],
)
def test_rows_ids_and_texts_may_not_leave(smuggled, key):
    with pytest.raises(InputError, match=key):
        SCHEMA.check(replace(UPDATE, **smuggled))


def test_a_client_that_has_not_met_all_classes_sends_fewer_and_never_more():
    schema = UpdateSchema.of(TENSORS, SUMS, ["client 0"], ["both"], ["loss"], num_classes=3)
    fewer = {"main.lora_A": TENSORS["main.lora_A"], "head.weight": torch.randn(2, 4)}
    schema.check(replace(UPDATE, tensors=fewer, summaries={k: v[:1] for k, v in SUMS.items()}))
    for name, value in (
        ("head.weight", torch.randn(7, 4)),
        ("head.weight", torch.randn(0, 4)),
        ("head.weight", torch.randn(3, 3)),
        ("main.lora_A", torch.randn(1, 4)),
    ):
        with pytest.raises(InputError, match=name):
            schema.check(replace(UPDATE, tensors={**TENSORS, name: value}))
    with pytest.raises(InputError, match=r"is \(2, 4\)"):
        SCHEMA.check(replace(UPDATE, tensors=fewer))


def test_every_field_of_an_update_is_checked():
    checked = {"client", "round", "tensors", "num_rows", "phase", "base", "summaries", "metrics"}
    assert {each.name for each in fields(ClientUpdate)} == checked


@pytest.mark.parametrize(
    ("spoilt", "why"),
    [
        ({"tensors": {"main.lora_A": TENSORS["main.lora_A"]}}, "head.weight is missing"),
        ({"summaries": {}}, "count is missing"),
        ({"tensors": {**TENSORS, "head.weight": torch.full((3, 4), torch.nan)}}, "not finite"),
        ({"metrics": {"loss": float("inf")}}, "not a number"),
        ({"num_rows": -1}, "num_rows"),
    ],
)
def test_an_update_that_is_incomplete_or_not_finite_is_refused(spoilt, why):
    with pytest.raises(InputError, match=why):
        SCHEMA.check(replace(UPDATE, **spoilt))


def test_names_of_a_wrapped_module_are_refused():
    wrapped = {f"_module.{name}": value for name, value in TENSORS.items()}
    with pytest.raises(InputError, match=r"_module\.main\.lora_A"):
        SCHEMA.check(replace(UPDATE, tensors=wrapped))


def test_a_summary_that_keeps_rows_may_not_leave():
    summary = Summary({"count": torch.ones(1)}, {"features": torch.randn(7, 4)})
    with pytest.raises(InputError, match="features"):
        declared_sums(summary)
    assert declared_sums(Summary(SUMS)) is SUMS


def test_the_real_summary_of_a_strategy_fits_its_schema(minilm, commands):
    from lamina.adapters.model import AdaptedModel

    model = AdaptedModel(minilm, None, seed=0)
    model.grow_head(6)
    strategy = strategy_class("simplecil")()
    train = commands.experiences[0].train
    found = [declared_sums(strategy.review(model, train[rows])) for rows in (slice(0, 4), slice(9))]
    schema = UpdateSchema.of(model.parameters(), found[0], ["a"], ["both"])
    schema.check(ClientUpdate("a", 0, model.parameters(), 9, "both", "0" * 64, found[1]))


def test_an_update_travels_as_bytes_and_comes_back_the_same():
    data = update_to_bytes(UPDATE)
    again = update_from_bytes(data)
    for group in ("tensors", "summaries"):
        assert digest_of(getattr(again, group)) == digest_of(getattr(UPDATE, group))
    for key in ("client", "round", "num_rows", "phase", "base", "metrics"):
        assert getattr(again, key) == getattr(UPDATE, key)
    SCHEMA.check(again)
    payload = sum(value.numel() * 4 for value in (*TENSORS.values(), *SUMS.values()))
    assert payload < len(data) < payload + 1000
    assert update_to_bytes(again) == data
    assert len(tensors_to_bytes(TENSORS)) > sum(value.numel() * 4 for value in TENSORS.values())


def test_an_update_of_views_of_one_tensor_travels():
    whole = torch.randn(4, 4)
    update = replace(UPDATE, tensors={"a": whole[:2], "b": whole[:, 1], "c": whole})
    again = update_from_bytes(update_to_bytes(update))
    assert digest_of(again.tensors) == digest_of(update.tensors)


def test_bytes_that_are_no_update_are_refused():
    data = update_to_bytes(UPDATE)
    wrong = data.replace(b"tensors/head.weight", b"tangent/head.weight")
    headless = tensors_to_bytes({"tensors/a": torch.ones(1)})
    other = data.replace(b"num_rows", b"num_cols")
    for each in (b"", b"nonsense", data[:-1], data + b"x", wrong, headless, other):
        with pytest.raises(InputError, match="no update"):
            update_from_bytes(each)
