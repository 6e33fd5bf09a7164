"""How many trials are packed is found out by trying."""

from random import Random

import pytest
import torch

from lamina.adapters import kind_class
from lamina.training import packing_size as module
from lamina.training.packing_size import kept_packing_size, packing_size
from nouns import nouns_stream


@pytest.fixture
def batch(tiny_bert):
    return nouns_stream(tiny_bert).experiences[0].train


def timed(monkeypatch, seconds_per_trial, noise=lambda: 0.0):
    """Let a pack of so many trials take so many seconds for each, whatever the machine does."""
    tried = []

    def step(backbone, kind, data, number):
        tried.append(number)
        return number

    def seconds(number, _):
        return number * seconds_per_trial.get(number, 1.0) * (1 + noise())

    monkeypatch.setattr(module, "_step", step)
    monkeypatch.setattr(module, "_seconds", seconds)
    return tried


def test_packs_grow_as_long_as_each_trial_gets_faster(monkeypatch, tiny_bert, batch):
    tried = timed(monkeypatch, {1: 1.0, 2: 0.7, 4: 0.5, 8: 0.49, 16: 0.1})
    found = packing_size(tiny_bert, kind_class("lora")(), batch, most=32)
    assert (found.size, found.alone, found.packed) == (4, 1.0, pytest.approx(0.5))
    assert tried == [1, 2, 4, 8]


def test_the_smaller_pack_is_taken_where_the_gain_is_within_the_noise(
    monkeypatch, tiny_bert, batch
):
    for seed in range(20):
        draw = Random(seed)
        timed(monkeypatch, {2: 0.97, 4: 0.95}, noise=lambda draw=draw: draw.uniform(0, 0.3))
        assert packing_size(tiny_bert, kind_class("lora")(), batch, most=4).size == 1


def test_a_gain_beyond_the_noise_is_found_each_time(monkeypatch, tiny_bert, batch):
    for seed in range(20):
        draw = Random(seed)
        timed(monkeypatch, {2: 0.6, 4: 0.58}, noise=lambda draw=draw: draw.uniform(0, 0.3))
        assert packing_size(tiny_bert, kind_class("lora")(), batch, most=4).size == 2


def test_no_more_are_packed_than_there_may_be(monkeypatch, tiny_bert, batch):
    timed(monkeypatch, {1: 1.0, 2: 0.5, 4: 0.25, 8: 0.1})
    assert packing_size(tiny_bert, kind_class("lora")(), batch, most=4).size == 4


def test_peft_modules_are_never_packed(monkeypatch, tiny_bert, batch):
    tried = timed(monkeypatch, {2: 0.1})
    assert packing_size(tiny_bert, kind_class("peft")(), batch, most=4).size == 1
    assert tried == [1]


def test_a_pack_that_could_take_too_much_memory_is_the_last_that_is_tried(
    monkeypatch, tiny_bert, batch
):
    tried = timed(monkeypatch, {1: 1.0, 2: 0.5, 4: 0.25})
    taken = iter([0, 60])
    monkeypatch.setattr(module, "_memory", lambda _: next(taken))
    monkeypatch.setattr(module, "_free", lambda _: 100)
    assert packing_size(tiny_bert, kind_class("lora")(), batch, most=32).size == 2
    assert tried == [1, 2]


def test_a_pack_without_room_leaves_the_one_before_it(monkeypatch, tiny_bert, batch):
    timed(monkeypatch, {1: 1.0, 2: 0.5})
    fits = module._step

    def step(backbone, kind, data, number):
        if number > 2:
            raise torch.OutOfMemoryError
        return fits(backbone, kind, data, number)

    monkeypatch.setattr(module, "_step", step)
    assert packing_size(tiny_bert, kind_class("lora")(), batch, most=32).size == 2


def test_what_was_found_is_kept_for_batches_of_one_shape(monkeypatch, tiny_bert, batch):
    kind = kind_class("lora")(rank=3)
    timed(monkeypatch, {2: 0.5, 4: 0.5})
    found = kept_packing_size(tiny_bert, kind, batch, most=4)
    timed(monkeypatch, {2: 2.0})
    assert kept_packing_size(tiny_bert, kind, batch, most=4) == found
    assert kept_packing_size(tiny_bert, kind, batch[slice(0, 3)], most=4).size == 1


def test_real_steps_are_measured(tiny_bert, batch):
    found = packing_size(tiny_bert, kind_class("prefix")(length=3), batch, most=2)
    assert found.size in (1, 2)
    assert 0 < found.packed <= found.alone
