"""CODA-Prompt: its losses, state and answers against naive versions."""

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from lamina.backbones.overlay import Overlay
from lamina.strategies import coda_prompt
from nouns import NO_REPLAY, after
from prompt_cases import HARDER, head_of, snapshot, task_of


def test_coda_prompt_is_a_sum_of_components_weighted_by_attended_similarity(nouns, tiny_bert):
    learner, data = after(1, "coda_prompt", nouns, tiny_bert, components=3, layers=(0, 1))
    model, strategy = learner.model, learner.strategy
    parts = strategy.all_components(model)
    assert parts["P"].shape == (2, 6, 8, 32)
    query = tiny_bert(data.inputs).features
    naive = torch.zeros(len(data), 2, 8, 32)
    for n, layer, m in np.ndindex(len(data), 2, 6):
        attended = query[n] * parts["A"][layer, m]
        weight = F.cosine_similarity(attended, parts["K"][layer, m], dim=0)
        naive[n, layer] += weight * parts["P"][layer, m]
    torch.testing.assert_close(strategy.prompts(model, query), naive, atol=1e-5, rtol=1e-4)
    prefixes = {layer: [(naive[:, layer, :4], naive[:, layer, 4:])] for layer in (0, 1)}
    logits = head_of(model, tiny_bert(data.inputs, Overlay(prefixes=prefixes)).features)
    got = strategy.predict(model, data.inputs, None)
    torch.testing.assert_close(got, logits, atol=1e-5, rtol=1e-4)


def test_coda_prompt_pays_for_components_that_are_not_orthonormal(nouns, tiny_bert):
    learner, data = after(1, "coda_prompt", nouns, tiny_bert, components=3, orthogonality=0.3)
    model, strategy = learner.model, learner.strategy
    with torch.no_grad():
        for value in model.adapters[coda_prompt.CURRENT].tensors.values():
            value += 0.3
    penalty = 0.0
    for stack in strategy.all_components(model).values():
        for rows in stack.flatten(2):
            penalty += ((rows @ rows.T - torch.eye(6)) ** 2).mean()
    logits = strategy.predict(model, data.inputs, None)
    naive = F.cross_entropy(logits[:, 2:4], data.labels - 2) + 0.3 * penalty
    loss = strategy.step(model, data, NO_REPLAY).loss
    torch.testing.assert_close(loss, naive, atol=1e-5, rtol=1e-4)


def test_coda_prompt_adds_components_orthonormal_to_the_old_which_stay(nouns, tiny_bert):
    learner, data = after(1, "coda_prompt", nouns, tiny_bert, components=3, training=HARDER)
    model = learner.model
    before = snapshot(model, coda_prompt.PAST)
    learner.descend(task_of(learner), data)
    learner.strategy.begin_task(model, replace(task_of(learner), index=2), None)
    for name, value in learner.strategy.all_components(model).items():
        gram = value.flatten(2) @ value.flatten(2).transpose(1, 2)
        torch.testing.assert_close(gram[0, 6:, 6:], torch.eye(3), atol=1e-5, rtol=0)
        assert gram[0, 6:, :6].abs().max() < 1e-5
        assert torch.equal(value[:, :3], before[coda_prompt.PAST, name])


def test_coda_prompt_weight_keeps_components_orthonormal(nouns, tiny_bert):
    def overlap(weight):
        settings = {"components": 3, "orthogonality": weight, "training": HARDER}
        learner, data = after(1, "coda_prompt", nouns, tiny_bert, **settings)
        learner.descend(task_of(learner), data)
        return learner.strategy.step(learner.model, data, NO_REPLAY).metrics["overlap"]

    assert overlap(10.0) < 0.2 * overlap(0.0)
