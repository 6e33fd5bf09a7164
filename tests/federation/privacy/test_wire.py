"""What travels is what was sent, in bytes that can be counted."""

from dataclasses import replace

import pytest
import torch

from lamina.federation.privacy.wire import tensors_to_bytes, update_from_bytes, update_to_bytes
from lamina.federation.update import ClientUpdate, digest_of
from lamina.memory.gaussian import class_sums
from lamina.registry import InputError

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


def test_an_update_travels_as_bytes_and_comes_back_the_same():
    data = update_to_bytes(UPDATE)
    again = update_from_bytes(data)
    for group in ("tensors", "summaries"):
        assert digest_of(getattr(again, group)) == digest_of(getattr(UPDATE, group))
    for key in ("client", "round", "num_rows", "phase", "base", "metrics"):
        assert getattr(again, key) == getattr(UPDATE, key)
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
