"""MAS: its losses, state and answers against naive versions."""

from dataclasses import replace

import torch
import torch.nn.functional as F

from classic_cases import second_task_drift, shaken
from nouns import NO_REPLAY, after, logits_of, make_learner


def test_mas_importance_is_the_mean_size_of_every_samples_gradient(nouns, tiny_bert):
    learner, _ = after(1, "mas", nouns, tiny_bert)
    fresh = make_learner("mas", nouns, tiny_bert)
    next(fresh.learn())
    data = nouns.experiences[0].train
    parameters = fresh.model.parameters()
    naive = {name: torch.zeros_like(value) for name, value in parameters.items()}
    for one in data.chunks(1):
        length = fresh.model(one.inputs).logits.square().sum()
        gradients = torch.autograd.grad(length, list(parameters.values()))
        for name, gradient in zip(parameters, gradients, strict=True):
            naive[name] += gradient.abs() / len(data)
    for name, value in learner.strategy.state["importance"].items():
        torch.testing.assert_close(value, naive[name], atol=1e-6, rtol=1e-3)


def test_mas_needs_no_label_to_weigh_a_parameter(nouns, tiny_bert):
    learner, data = after(1, "mas", nouns, tiny_bert)
    mixed = replace(data, labels=data.labels.flip(0) * 0)
    given, blind = (learner.strategy.review(learner.model, each) for each in (data, mixed))
    assert all(torch.equal(given[name], blind[name]) for name in given.sums)


def test_mas_sums_importance_over_tasks_and_pays_for_distance(nouns, tiny_bert):
    learner, data = after(2, "mas", nouns, tiny_bert, strength=2.0)
    once = make_learner("mas", nouns, tiny_bert, strength=2.0)
    reports = once.learn()
    next(reports)
    first = {k: v.clone() for k, v in once.strategy.state["importance"].items()}
    next(reports)
    second = once.summarise(once.strategy.review, nouns.experiences[1].train)
    state = learner.strategy.state
    for name, value in state["importance"].items():
        expected = second[name] / second["count"]
        expected[: len(first[name])] += first[name]
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-3)
    shaken(learner)
    naive = F.cross_entropy(logits_of(learner, data), data.labels)
    for name, value in learner.model.parameters().items():
        far = (value[: len(state["anchor"][name])] - state["anchor"][name]) ** 2
        naive = naive + 2.0 * (state["importance"][name] * far).sum()
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    torch.testing.assert_close(loss, naive, atol=1e-5, rtol=1e-4)


def test_mas_of_no_strength_is_finetune_and_of_great_strength_stays_where_it_was(nouns, tiny_bert):
    free = second_task_drift("finetune", nouns, tiny_bert)
    assert second_task_drift("mas", nouns, tiny_bert, strength=0.0) == free
    assert second_task_drift("mas", nouns, tiny_bert, strength=1e4) < 0.8 * free
