import pytest
import torch

from lamina.core import IGNORED, Batch, Summary, generator_of, seed_of


def text_batch(lengths, first_id=0):
    width = max(lengths)
    mask = torch.tensor([[1] * n + [0] * (width - n) for n in lengths])
    ids = torch.arange(first_id, first_id + len(lengths))
    return Batch({"input_ids": mask * (ids[:, None] + 1), "attention_mask": mask}, ids % 2, ids)


def test_a_seed_depends_on_its_name_and_on_the_run_seed():
    seeds = {seed_of(0, "a"), seed_of(0, "b"), seed_of(1, "a"), seed_of(0, "a", 1)}
    assert len(seeds) == 4
    assert seed_of(0, "a", 1) == seed_of(0, "a", 1)
    draws = [torch.rand(3, generator=generator_of(0, "a")) for _ in range(2)]
    assert torch.equal(*draws)


def test_batches_of_different_widths_are_padded_when_joined():
    joined = Batch.cat([text_batch([2, 3]), text_batch([5], first_id=10)])
    assert joined.inputs["input_ids"].shape == (3, 5)
    assert joined.inputs["attention_mask"].sum(1).tolist() == [2, 3, 5]
    assert joined.ids.tolist() == [0, 1, 10]


def test_token_labels_are_padded_with_what_no_loss_counts():
    first = Batch({"x": torch.zeros(1, 1)}, torch.tensor([[4, 5]]), torch.tensor([0]))
    second = Batch({"x": torch.zeros(1, 1)}, torch.tensor([[6]]), torch.tensor([1]))
    assert Batch.cat([first, second]).labels.tolist() == [[4, 5], [6, IGNORED]]


def test_a_trimmed_batch_loses_only_padding():
    batch = text_batch([2, 5, 3])[torch.tensor([0, 2])]
    trimmed = batch.trimmed()
    assert trimmed.inputs["input_ids"].shape == (2, 3)
    assert torch.equal(trimmed.inputs["input_ids"], batch.inputs["input_ids"][:, :3])
    assert torch.equal(trimmed.ids, batch.ids)


def test_chunks_cover_every_row_once():
    chunks = list(text_batch([1, 2, 3, 4, 5]).chunks(2))
    assert [chunk.ids.tolist() for chunk in chunks] == [[0, 1], [2, 3], [4]]
    assert [chunk.inputs["input_ids"].shape[1] for chunk in chunks] == [2, 4, 5]


def test_summaries_add_and_refuse_strangers():
    first, second = Summary({"a": torch.ones(2)}), Summary({"a": torch.arange(2.0)})
    assert (first + second)["a"].tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="do not add"):
        first + Summary({"b": torch.ones(2)})
