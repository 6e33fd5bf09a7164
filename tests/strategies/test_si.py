"""SI: its losses, state and answers against naive versions."""

import torch
import torch.nn.functional as F

from classic_cases import learn_on, second_task_drift, shaken
from lamina.training.settings import TrainingSettings
from nouns import NO_REPLAY, after, logits_of


def test_si_importance_is_the_path_integral_of_the_tasks_own_gradient(nouns, tiny_bert):
    c, xi, rate = 5.0, 0.01, 0.2
    training = TrainingSettings(
        epochs=3, batch_size=10, optimizer="sgd", learning_rate=rate, momentum=0.0
    )
    learner, data = after(1, "si", nouns, tiny_bert, strength=c, damping=xi, training=training)
    past = {k: v.clone() for k, v in learner.strategy.state["importance"].items()}
    anchor = {k: v.clone() for k, v in learner.strategy.state["anchor"].items()}
    values = {k: v.detach().clone() for k, v in learner.model.parameters().items()}
    start, path = dict(values), {k: torch.zeros_like(v) for k, v in values.items()}
    for _ in range(3):
        moving = {k: v.clone().requires_grad_() for k, v in values.items()}
        loss = F.cross_entropy(learner.model(data.inputs, parameters=moving).logits, data.labels)
        task = dict(zip(moving, torch.autograd.grad(loss, list(moving.values())), strict=True))
        for name, value in values.items():
            whole = task[name].clone()
            rows = len(anchor[name])
            whole[:rows] += 2 * c * past[name] * (value[:rows] - anchor[name])
            moved = value - rate * whole
            path[name] -= task[name] * (moved - value)
            values[name] = moved
    experience = nouns.experiences[1]
    learn_on(learner, data)
    learner.strategy.end_task(learner.model, experience.task, None)
    for name, importance in learner.strategy.state["importance"].items():
        naive = path[name] / ((values[name] - start[name]) ** 2 + xi)
        naive[: len(past[name])] += past[name]
        torch.testing.assert_close(importance, naive.clamp_min(0), atol=2e-5, rtol=2e-2)
        assert (importance >= 0).all()


def test_si_pays_for_distance_from_the_anchor_weighted_by_importance(nouns, tiny_bert):
    learner, data = after(1, "si", nouns, tiny_bert, strength=3.0)
    shaken(learner)
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    naive = F.cross_entropy(logits_of(learner, data), data.labels)
    state = learner.strategy.state
    for name, value in learner.model.parameters().items():
        anchor = state["anchor"][name]
        far = (value[: len(anchor)] - anchor) ** 2
        naive = naive + 3.0 * (state["importance"][name] * far).sum()
    torch.testing.assert_close(loss, naive, atol=1e-5, rtol=1e-4)


def test_si_of_no_strength_is_finetune_and_of_great_strength_stays_where_it_was(nouns, tiny_bert):
    free = second_task_drift("finetune", nouns, tiny_bert)
    assert second_task_drift("si", nouns, tiny_bert, strength=0.0) == free
    assert second_task_drift("si", nouns, tiny_bert, strength=1e3) < 0.8 * free
