"""EWC: its losses, state and answers against naive versions."""

import torch
import torch.nn.functional as F

from nouns import NO_REPLAY, after, drift, logits_of, make_learner


def test_ewc_fisher_is_the_mean_of_every_samples_squared_gradient(nouns, tiny_bert):
    learner, _ = after(1, "ewc", nouns, tiny_bert)
    fresh = make_learner("ewc", nouns, tiny_bert)
    next(fresh.learn())
    data = nouns.experiences[0].train
    parameters = fresh.model.parameters()
    naive = {name: torch.zeros_like(value) for name, value in parameters.items()}
    for one in data.chunks(1):
        loss = F.cross_entropy(fresh.model(one.inputs).logits, one.labels)
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        for name, gradient in zip(parameters, gradients, strict=True):
            naive[name] += gradient.square() / len(data)
    (kept,) = learner.strategy.state["kept"]
    for name, value in kept["fisher"].items():
        torch.testing.assert_close(value, naive[name], atol=1e-6, rtol=1e-3)


def test_ewc_pays_for_distance_from_the_anchor_weighted_by_fisher(nouns, tiny_bert):
    learner, data = after(1, "ewc", nouns, tiny_bert, strength=7.0)
    with torch.no_grad():
        for value in learner.model.parameters().values():
            value += 0.01
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    (kept,) = learner.strategy.state["kept"]
    penalty = sum((fisher * 0.01**2).sum() for fisher in kept["fisher"].values())
    plain = F.cross_entropy(logits_of(learner, data), data.labels)
    torch.testing.assert_close(loss, plain + 7.0 * penalty, atol=1e-6, rtol=1e-4)


def test_ewc_adds_the_fisher_of_later_tasks_and_pads_new_head_rows(nouns, tiny_bert):
    learner = make_learner("ewc", nouns, tiny_bert, decay=0.5)
    reports = learner.learn()
    next(reports)
    first = learner.strategy.state["kept"][0]["fisher"]
    next(reports)
    second = learner.summarise(learner.strategy.review, nouns.experiences[1].train)
    (kept,) = learner.strategy.state["kept"]
    for name, value in kept["fisher"].items():
        expected = second[name] / second["count"]
        expected[: len(first[name])] += 0.5 * first[name]
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-3)
    assert len(kept["fisher"]["head.bias"]) == 4


def test_ewc_offline_is_held_by_every_task_at_the_place_that_it_left(nouns, tiny_bert):
    learner, data = after(2, "ewc", nouns, tiny_bert, strength=7.0, online=False)
    first, second = learner.strategy.state["kept"]
    parameters = learner.model.parameters()
    naive = F.cross_entropy(logits_of(learner, data), data.labels)
    for name, value in parameters.items():
        for task in (first, second):
            fisher, anchor = task["fisher"][name], task["anchor"][name]
            naive = naive + 7.0 * (fisher * (value[: len(anchor)] - anchor) ** 2).sum()
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    torch.testing.assert_close(loss, naive, atol=1e-6, rtol=1e-4)
    assert (first["anchor"]["head.bias"] - second["anchor"]["head.bias"][:2]).abs().max() > 0


def test_ewc_offline_is_online_until_there_is_a_second_task_to_remember(nouns, tiny_bert):
    def penalty(num_tasks, online):
        learner, data = after(num_tasks, "ewc", nouns, tiny_bert, online=online)
        with torch.no_grad():
            for value in learner.model.parameters().values():
                value += 0.01
        return learner.strategy.step(learner.model, data, NO_REPLAY).metrics["penalty"]

    assert penalty(1, online=True) == penalty(1, online=False)
    assert penalty(2, online=True) < penalty(2, online=False)


def test_ewc_of_no_strength_is_finetune_and_of_great_strength_stays_where_it_was(nouns, tiny_bert):
    def run(name, **settings):
        learner = make_learner(name, nouns, tiny_bert, **settings)
        reports = learner.learn()
        next(reports)
        before = {k: v.detach().clone() for k, v in learner.model.parameters().items()}
        next(reports)
        return drift(learner, before)

    free = run("finetune")
    assert run("ewc", strength=0.0) == free
    assert run("ewc", strength=1e6) < 0.7 * free
