"""DualPrompt: its losses, state and answers against naive versions."""

import torch
import torch.nn.functional as F

from lamina.backbones.overlay import Overlay
from lamina.core import Batch
from lamina.strategies.dualprompt import EXPERT, GENERAL
from nouns import NO_REPLAY, after, make_learner
from prompt_cases import HARDER, head_of, snapshot, task_of


def unchanged(model, before):
    """Whether adapters hold bit for bit what they held."""
    return all(torch.equal(model.adapters[n].tensors[k], v) for (n, k), v in before.items())


def naive_dualprompt_logits(learner, inputs, expert):
    model = learner.model
    g, e = model.adapters[GENERAL].tensors["prompt"], expert["prompt"]
    prefixes = {0: [(g[0, 0], g[0, 1])], 1: [(e[0, 0], e[0, 1])]}
    return head_of(model, model.backbone(inputs, Overlay(prefixes=prefixes)).features)


def test_dualprompt_loss_is_cross_entropy_and_the_distance_of_the_tasks_key(nouns, tiny_bert):
    learner, data = after(1, "dualprompt", nouns, tiny_bert, e_layers=(1,), pull=0.7)
    model = learner.model
    expert = model.adapters[EXPERT.format(1)].tensors
    logits = naive_dualprompt_logits(learner, data.inputs, expert)
    query = tiny_bert(data.inputs).features
    distance = sum(1 - F.cosine_similarity(q, expert["key"], dim=0) for q in query) / len(data)
    loss = learner.strategy.step(model, data, NO_REPLAY).loss
    naive = F.cross_entropy(logits[:, 2:4], data.labels - 2) + 0.7 * distance
    torch.testing.assert_close(loss, naive, atol=1e-5, rtol=1e-4)


def test_dualprompt_trains_the_general_prompt_and_the_tasks_own_expert_only(nouns, tiny_bert):
    learner, data = after(1, "dualprompt", nouns, tiny_bert)
    model = learner.model
    first, second = EXPERT.format(0), EXPERT.format(1)
    assert torch.equal(*(model.adapters[each].tensors["prompt"] for each in (first, second)))
    before, moving = snapshot(model, first), snapshot(model, GENERAL, second)
    learner.descend(task_of(learner), data)
    assert unchanged(model, before)
    for name, key in moving:
        assert not torch.equal(model.adapters[name].tensors[key], moving[name, key])


def test_dualprompt_routes_each_row_to_the_nearest_key(nouns, tiny_bert):
    learner = make_learner("dualprompt", nouns, tiny_bert, e_layers=(1,), training=HARDER)
    list(learner.learn())
    model = learner.model
    inputs = Batch.cat([each.test for each in nouns.experiences]).inputs
    experts = [model.adapters[EXPERT.format(t)].tensors for t in range(3)]
    query = tiny_bert(inputs).features
    nearest = [
        max(range(3), key=lambda t: F.cosine_similarity(q, experts[t]["key"], dim=0)) for q in query
    ]
    assert learner.strategy.route(model, inputs).tolist() == nearest
    assert len(set(nearest)) > 1
    each = [naive_dualprompt_logits(learner, inputs, expert) for expert in experts]
    expected = torch.stack([each[t][n] for n, t in enumerate(nearest)])
    got = learner.strategy.predict(model, inputs, None)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    told = learner.strategy.predict(model, inputs, nouns.experiences[2].task)
    torch.testing.assert_close(told, each[2], atol=1e-5, rtol=1e-4)


def test_dualprompt_pull_draws_the_key_and_without_it_the_key_stays(nouns, tiny_bert):
    def keys(pull):
        learner, data = after(0, "dualprompt", nouns, tiny_bert, pull=pull, training=HARDER)
        key = learner.model.adapters[EXPERT.format(0)].tensors["key"]
        before = key.detach().clone()
        learner.descend(task_of(learner), data)
        return before, key.detach(), tiny_bert(data.inputs).features

    before, after_all, query = keys(1.0)
    near = F.cosine_similarity(query, after_all[None]).mean()
    assert near > F.cosine_similarity(query, before[None]).mean() + 0.2
    before, after_all, _ = keys(0.0)
    assert torch.equal(before, after_all)
