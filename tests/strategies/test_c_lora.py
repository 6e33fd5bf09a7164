"""C-LoRA: its losses, state and answers against naive versions."""

import pytest
import torch

from lamina.adapters.kinds.lora import modules_of
from lamina.adapters.succession import PAST, current
from lora_cases import a_of, b_of, descend, shaken, task_loss
from nouns import NO_REPLAY, after, logits_of, make_learner


def test_c_lora_pays_for_changing_what_was_changed(nouns, tiny_bert):
    learner, data = after(2, "c_lora", nouns, tiny_bert, strength=1e4, scale="paper")
    shaken(learner)
    past, new = learner.model.adapters[PAST].tensors, current(learner.model).tensors
    overlap = 0.0
    for module in modules_of(new):
        assert a_of(past, module).shape[0] == 16
        old = sum(
            b_of(past, module)[:, block] @ a_of(past, module)[block]
            for block in (slice(0, 8), slice(8, 16))
        )
        update = b_of(new, module) @ a_of(new, module)
        for i in range(update.shape[0]):
            for j in range(update.shape[1]):
                overlap += (old[i, j].abs() * update[i, j]) ** 2
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    naive = task_loss(logits_of(learner, data), data, first=4) + 1e4 * overlap
    torch.testing.assert_close(loss, naive, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("scale", "strength"), [("paper", 1e8), ("loss", 1e3)])
def test_c_lora_strength_keeps_the_update_off_changed_weights(scale, strength, nouns, tiny_bert):
    def overlap(strength):
        settings = {"strength": strength, "scale": scale}
        learner, data = after(1, "c_lora", nouns, tiny_bert, **settings)
        descend(learner, data)
        return sum(learner.strategy.overlaps(learner.model).values())

    assert overlap(strength) < 0.1 * overlap(0.0)


def test_c_lora_repeating_what_was_changed_costs_as_much_as_the_loss(nouns, tiny_bert):
    learner, data = after(1, "c_lora", nouns, tiny_bert, strength=0.7)
    past, new = learner.model.adapters[PAST].tensors, current(learner.model).tensors
    with torch.no_grad():
        for name, tensor in new.items():
            tensor.copy_(past[name])
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    plain = task_loss(logits_of(learner, data), data)
    torch.testing.assert_close(loss, 1.7 * plain, atol=1e-4, rtol=1e-4)
    learner.strategy.state["changed"] = {
        name: 100 * value for name, value in learner.strategy.state["changed"].items()
    }
    smaller = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    torch.testing.assert_close(smaller, (1 + 0.7e-4) * plain, atol=1e-5, rtol=1e-5)


def test_c_lora_keeps_no_full_matrix_between_tasks(nouns, tiny_bert):
    learner = make_learner("c_lora", nouns, tiny_bert)
    list(learner.learn())
    assert learner.strategy.state == {}
