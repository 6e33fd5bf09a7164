"""SD-LoRA: its losses, state and answers against naive versions."""

import pytest
import torch

from lamina.adapters.succession import PAST, current
from lamina.strategies.sd_lora import MAGNITUDES
from lora_cases import SCALE_OF_LORA, a_of, b_of, descend, merged_features, shaken, task_loss
from nouns import NO_REPLAY, after, make_learner


def test_sd_lora_moves_along_unit_directions_by_learned_magnitudes(nouns, tiny_bert):
    learner = make_learner("sd_lora", nouns, tiny_bert)
    reports = learner.learn()
    own = []
    for _ in range(2):
        next(reports)
        tensors = current(learner.model).tensors
        own.append({name: value.detach().clone() for name, value in tensors.items()})
    learner.model.grow_head(6)
    learner.strategy.begin_task(learner.model, nouns.experiences[2].task, None)
    shaken(learner)
    data = nouns.experiences[2].train
    new = current(learner.model).tensors
    updates = {}
    for module, alpha in learner.model.adapters[MAGNITUDES].tensors.items():
        assert alpha.shape == (3,)
        update = alpha[2] * b_of(new, module) @ a_of(new, module)
        for i, past in enumerate(own):
            a, b = a_of(past, module), b_of(past, module)
            norms = a.square().sum().sqrt() * b.square().sum().sqrt()
            update = update + alpha[i] * (b @ a) / norms
        updates[module] = SCALE_OF_LORA * update
    features = merged_features(tiny_bert, data.inputs, updates)
    naive = task_loss(learner.model.logits(features), data, first=4)
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    torch.testing.assert_close(loss, naive, atol=1e-4, rtol=1e-4)


def test_sd_lora_is_the_same_model_when_a_task_begins(nouns, tiny_bert):
    learner = make_learner("sd_lora", nouns, tiny_bert)
    next(learner.learn())
    data = nouns.experiences[0].test
    before = learner.strategy.predict(learner.model, data.inputs, None)
    learner.strategy.begin_task(learner.model, nouns.experiences[1].task, None)
    after_it = learner.strategy.predict(learner.model, data.inputs, None)
    torch.testing.assert_close(after_it, before, atol=1e-5, rtol=1e-4)


def test_sd_lora_trains_old_magnitudes_and_not_old_directions(nouns, tiny_bert):
    learner, data = after(1, "sd_lora", nouns, tiny_bert)
    model = learner.model
    past = {k: v.clone() for k, v in model.adapters[PAST].tensors.items()}
    alphas = {k: v.detach().clone() for k, v in model.adapters[MAGNITUDES].tensors.items()}
    assert all(v.norm() == pytest.approx(1, abs=1e-5) for v in past.values())
    descend(learner, data)
    assert all(torch.equal(past[k], v) for k, v in model.adapters[PAST].tensors.items())
    for module, alpha in model.adapters[MAGNITUDES].tensors.items():
        assert (alpha != alphas[module]).all()


def test_sd_lora_magnitude_moves_the_result(nouns, tiny_bert):
    def loss(magnitude):
        learner, data = after(0, "sd_lora", nouns, tiny_bert, magnitude=magnitude)
        descend(learner, data)
        return learner.strategy.step(learner.model, data, NO_REPLAY).loss

    assert loss(0.1) != loss(2.0)
