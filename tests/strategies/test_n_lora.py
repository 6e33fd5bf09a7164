"""N-LoRA: its losses, state and answers against naive versions."""

import pytest
import torch

from lamina.adapters.kinds.lora import LoRA, modules_of
from lamina.adapters.succession import current
from lamina.training.learner import Learner
from lamina.training.settings import TrainingSettings
from lora_cases import a_of, b_of, descend, shaken, task_loss
from nouns import NO_REPLAY, after, logits_of, make_learner


def test_n_lora_pays_for_every_entry_of_the_update(nouns, tiny_bert):
    learner, data = after(1, "n_lora", nouns, tiny_bert, sparsity=0.3, scale="paper")
    shaken(learner)
    new = current(learner.model).tensors
    entries = sum(
        (b_row * a_of(new, module).T).sum(1).abs().sum()
        for module in modules_of(new)
        for b_row in b_of(new, module)
    )
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    naive = task_loss(logits_of(learner, data), data) + 0.3 * entries
    torch.testing.assert_close(loss, naive, atol=1e-4, rtol=1e-4)


def test_n_lora_inner_pays_for_the_public_codes_product(nouns, tiny_bert):
    learner, data = after(
        1, "n_lora", nouns, tiny_bert, sparsity=0.3, product="inner", scale="paper"
    )
    shaken(learner)
    new = current(learner.model).tensors
    entries = sum(
        (a_row * b_column).sum().abs()
        for module in modules_of(new)
        for a_row in a_of(new, module)
        for b_column in b_of(new, module).T
    )
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    naive = task_loss(logits_of(learner, data), data) + 0.3 * entries
    torch.testing.assert_close(loss, naive, atol=1e-4, rtol=1e-4)


def test_n_lora_inner_refuses_modules_that_are_not_square(nouns, tiny_bert):
    learner = make_learner("n_lora", nouns, tiny_bert, product="inner")
    wide = Learner(
        strategy=learner.strategy,
        adapter=LoRA(targets=("intermediate.dense",)),
        memory=None,
        training=TrainingSettings(epochs=1, batch_size=4),
        seed=0,
        stream=nouns,
        backbone=tiny_bert,
    )
    with pytest.raises(ValueError, match=r"strategy\.product"):
        next(wide.learn())


@pytest.mark.parametrize("product", ["update", "inner"])
def test_n_lora_weight_makes_the_update_sparse(product, nouns, tiny_bert):
    def size(sparsity):
        settings = {"sparsity": sparsity, "product": product, "scale": "paper"}
        learner, data = after(1, "n_lora", nouns, tiny_bert, **settings)
        descend(learner, data)
        return learner.strategy.step(learner.model, data, NO_REPLAY).metrics["l1_norm"]

    assert size(0.1) < 0.5 * size(0.0)


def test_n_lora_mean_entry_costs_its_size_times_the_loss(nouns, tiny_bert):
    learner, data = after(1, "n_lora", nouns, tiny_bert, sparsity=3.0)
    shaken(learner)
    new = current(learner.model).tensors
    means = [(b_of(new, each) @ a_of(new, each)).abs().mean() for each in modules_of(new)]
    plain = task_loss(logits_of(learner, data), data)
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    naive = plain * (1 + 3.0 * sum(means) / len(means))
    torch.testing.assert_close(loss, naive, atol=1e-4, rtol=1e-4)
