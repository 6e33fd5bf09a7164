import pytest
import torch

from lamina.core import Batch
from lamina.memory import policy_class, policy_names
from lamina.memory.memory import Memory, Replay
from lamina.registry import InputError
from lamina.training.checkpoint import pack, unpack


def rows(ids, labels, **extras):
    ids = torch.as_tensor(ids)
    return Batch({"x": ids[:, None].float()}, torch.as_tensor(labels), ids, extras=extras)


def rows_of(ids):
    return rows(ids, ids % 10)


def filled(name, size, num_rows, per_offer=10, seed=0):
    memory = Memory(policy_class(name)(size), seed)
    for start in range(0, num_rows, per_offer):
        memory.offer(rows_of(torch.arange(start, start + per_offer)))
    return memory


def test_the_three_policies_are_there():
    assert policy_names() == ["class_balanced", "reservoir", "ring"]


@pytest.mark.parametrize("name", policy_names())
def test_a_memory_never_holds_more_than_its_size(name):
    assert len(filled(name, 25, 20)) == 20
    assert len(filled(name, 25, 200)) == 25


def test_a_reservoir_keeps_every_row_with_the_same_probability():
    counts = torch.zeros(100)
    for seed in range(400):
        counts[filled("reservoir", 20, 100, seed=seed).ids] += 1
    # 400 draws of probability 0.2: mean 80, standard deviation 8; early and late rows alike.
    assert (counts - 80).abs().max() < 40
    assert (counts[:50].mean() - counts[50:].mean()).abs() < 3


def test_class_balanced_memory_holds_as_many_of_a_rare_class_as_of_a_common_one():
    memory = Memory(policy_class("class_balanced")(20), seed=0)
    memory.offer(rows(range(90), [0] * 80 + [1] * 10))
    memory.offer(rows(range(90, 190), [2] * 97 + [3] * 3))
    assert memory.labels.bincount().tolist() in ([6, 6, 5, 3], [6, 5, 6, 3], [5, 6, 6, 3])


def test_a_ring_keeps_the_most_recent_rows_of_every_class():
    memory = filled("ring", 20, 100)
    assert sorted(memory.ids.tolist()) == list(range(80, 100))


def test_draws_depend_on_seed_and_step_and_name_only():
    memory = filled("reservoir", 50, 200)
    first = memory.draw(8, rows_of, step=3)
    memory.draw(8, rows_of, step=4)
    assert torch.equal(first.ids, memory.draw(8, rows_of, step=3).ids)
    assert not torch.equal(first.ids, memory.draw(8, rows_of, step=4).ids)
    assert not torch.equal(first.ids, memory.draw(8, rows_of, step=3, name="second").ids)
    assert not torch.equal(
        first.ids, filled("reservoir", 50, 200, seed=1).draw(8, rows_of, step=3).ids
    )


def test_a_draw_never_repeats_a_row_and_never_exceeds_what_is_there():
    memory = filled("reservoir", 10, 20)
    draw = memory.draw(64, rows_of, step=0)
    assert sorted(draw.ids.tolist()) == sorted(memory.ids.tolist())
    assert Replay(Memory(policy_class("ring")(5), 0), rows_of, 0, "cpu").draw(4) is None
    assert Replay(None, rows_of, 0, "cpu").draw(4) is None


def test_what_was_stored_with_an_exemplar_comes_back_with_it():
    memory = Memory(policy_class("reservoir")(5), seed=0)
    ids = torch.arange(20)
    memory.offer(rows(ids, ids % 2), lambda batch: {"logits": batch.ids[:, None] * 10.0})
    draw = memory.draw(3, rows_of, step=0)
    assert torch.equal(draw.extras["logits"][:, 0], draw.ids * 10.0)


def test_notes_are_taken_of_new_exemplars_only_and_widened_with_nan():
    memory = Memory(policy_class("class_balanced")(8), seed=0)
    asked = []

    def note(width):
        def take(batch):
            asked.append(batch.ids.tolist())
            return {"logits": batch.ids[:, None].repeat(1, width).float()}

        return take

    memory.offer(rows(torch.arange(20), torch.zeros(20, dtype=torch.int64)), note(1))
    assert asked == [memory.ids.tolist()]
    memory.offer(rows(torch.arange(20, 40), torch.ones(20, dtype=torch.int64)), note(2))
    old = memory.ids < 20
    assert old.sum() == 4
    assert asked[1] == memory.ids[~old].tolist()
    assert torch.equal(memory.extras["logits"][:, 0], memory.ids.float())
    assert torch.equal(memory.extras["logits"][:, 1].isnan(), old)


def test_a_restored_memory_goes_on_as_if_it_had_never_stopped():
    memory = filled("class_balanced", 30, 100)
    restored = Memory(policy_class("class_balanced")(30), seed=0)
    restored.load_state_dict(unpack(pack(memory.state_dict())))
    for each in (memory, restored):
        each.offer(rows_of(torch.arange(100, 150)))
    assert torch.equal(memory.ids, restored.ids)
    assert torch.equal(memory.draw(9, rows_of, 7).ids, restored.draw(9, rows_of, 7).ids)


def test_memory_bytes_are_those_of_the_exemplars():
    memory = filled("ring", 10, 20)
    assert memory.num_bytes(rows_of) == 10 * (4 + 8)


def test_a_memory_of_no_size_is_refused():
    with pytest.raises(InputError, match=r"memory.size: 0 is not positive"):
        policy_class("reservoir")(0)
