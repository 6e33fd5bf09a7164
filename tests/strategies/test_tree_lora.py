"""TreeLoRA: its losses, state and answers against naive versions."""

import math

import pytest
import torch
import torch.nn.functional as F

from lamina.adapters.model import MAIN
from lamina.core import generator_of
from lamina.strategies.tree_lora import TreeLoRA, grow, lower_bound
from nouns import NO_REPLAY, after, logits_of, make_learner
from online_lora_cases import trained_on


def in_tree(nouns, backbone, **settings):
    """A learner that has begun its third task."""
    return after(2, "tree_lora", nouns, backbone, **settings)


def make_tree_strategy(places):
    """A bandit over tasks whose proxies are one number each."""
    strategy = TreeLoRA()
    row = torch.tensor(places)[:, None]
    number = len(places)
    strategy.state.update(
        tree=grow(list(range(number)), [row], torch.cdist(row, row, p=1)),
        tried=[0] * number,
        distances=[0.0] * number,
        num_steps=0,
    )
    return strategy


def play(strategy, distances, rounds):
    """Which tasks it picks where these are the distances."""
    picked = []
    for _ in range(rounds):
        task = strategy._search()
        picked.append(task)
        strategy.state["tried"][task] += 1
        strategy.state["distances"][task] += distances[task]
        strategy.state["num_steps"] += 1
    return picked


def test_tree_lora_keeps_the_average_of_what_a_accumulated(nouns, tiny_bert):
    learner = make_learner("tree_lora", nouns, tiny_bert)
    main = learner.model.adapters[MAIN].tensors
    names = [name for name in main if "lora_A" in name]
    start = torch.cat([main[name].detach().clone().flatten() for name in names])
    seen, original = [], learner.strategy.after_step

    def watch(model, summary):
        seen.append(torch.cat([main[name].detach().flatten() for name in names]) - start)
        original(model, summary)

    learner.strategy.after_step = watch
    next(learner.learn())
    assert len(seen) == 6
    proxy = learner.strategy.state["proxies"][0]
    torch.testing.assert_close(proxy, torch.stack(seen).mean(0), atol=1e-6, rtol=1e-4)
    assert proxy.abs().max() > 1e-3


def test_tree_lora_adds_the_l1_distance_to_the_picked_task(nouns, tiny_bert):
    learner, data = in_tree(nouns, tiny_bert, strength=0.7, scale="paper")
    strategy, main = learner.strategy, learner.model.adapters[MAIN].tensors
    proxies, start = strategy.state["proxies"], strategy.state["start"]
    largest = max(sum(abs(x) for x in proxy.tolist()) for proxy in proxies)
    now = torch.cat([v.detach().flatten() for k, v in main.items() if "lora_A" in k]) - start
    plain = F.cross_entropy(logits_of(learner, data)[:, 4:], data.labels - 4)
    losses = []
    for picked in (0, 1):
        strategy.state["picked"] = picked
        loss = strategy.step(learner.model, data, NO_REPLAY).loss
        far = (now - proxies[picked]).abs().sum() / (2 * largest)
        torch.testing.assert_close(loss, plain + 0.7 * far, atol=1e-5, rtol=1e-4)
        losses.append(float(loss.detach()))
    assert losses[0] != losses[1]


def test_tree_lora_distance_weighs_as_much_as_the_loss_whatever_its_size(nouns, tiny_bert):
    learner, data = in_tree(nouns, tiny_bert, strength=0.7)
    strategy, main = learner.strategy, learner.model.adapters[MAIN].tensors
    name = next(name for name in main if "lora_A" in name)
    plain = F.cross_entropy(logits_of(learner, data)[:, 4:], data.labels - 4)

    def pull():
        with_it = strategy.step(learner.model, data, NO_REPLAY).loss
        torch.testing.assert_close(with_it, 1.7 * plain, atol=1e-4, rtol=1e-4)
        own = F.cross_entropy(logits_of(learner, data)[:, 4:], data.labels - 4)
        return torch.autograd.grad(with_it - own, main[name])[0]

    before = pull()
    strategy.state["scale"] *= 1000
    torch.testing.assert_close(pull(), before)


def test_tree_lora_splits_at_the_median_of_similarity_to_the_mean_layer_by_layer():
    generator = generator_of(0, "tree")
    layers = [torch.randn(5, 7, generator=generator) for _ in range(2)]
    between = torch.cdist(torch.cat(layers, 1), torch.cat(layers, 1), p=1)

    def check(node, depth):
        tasks = node["tasks"]
        pairs = [
            float((torch.cat([g[i] - g[j] for g in layers])).abs().sum())
            for i in tasks
            for j in tasks
        ]
        assert node["diameter"] == pytest.approx(max(pairs), abs=1e-4)
        if len(tasks) == 1:
            assert node["children"] == []
            return
        rows = layers[depth % 2][tasks]
        similarity = {t: float(row @ rows.mean(0)) for t, row in zip(tasks, rows, strict=True)}
        like, unlike = (child["tasks"] for child in node["children"])
        assert sorted(like + unlike) == tasks
        assert len(like) - len(unlike) in (0, 1)
        assert min(similarity[t] for t in like) >= max(similarity[t] for t in unlike)
        for child in node["children"]:
            check(child, depth + 1)

    check(grow(list(range(5)), layers, between), 0)


def test_tree_lora_bound_of_a_node_is_its_own_or_its_childrens():
    def leaf(task):
        return {"tasks": [task], "diameter": 0.0, "children": []}

    node = {"tasks": [0, 1], "diameter": 0.1, "children": [leaf(0), leaf(1)]}
    tried, distances, width = [4, 2], [0.8, 1.2], 0.5
    bounds = [0.8 / 4 - math.sqrt(0.5 / 8), 1.2 / 2 - math.sqrt(0.5 / 4)]
    own = 2.0 / 6 - math.sqrt(0.5 / 12) - 0.1
    assert lower_bound(node, tried, distances, width) == pytest.approx(max(own, min(bounds)))
    assert lower_bound(leaf(1), tried, distances, width) == pytest.approx(bounds[1])
    assert lower_bound(leaf(0), [0, 2], distances, width) == -math.inf


def test_tree_lora_bandit_tries_every_task_and_settles_on_the_nearest():
    strategy = make_tree_strategy([0.9, 0.5, 0.2, 0.6])
    picked = play(strategy, [0.9, 0.5, 0.2, 0.6], 3000)
    assert set(picked) == {0, 1, 2, 3}
    late = picked[1500:]
    assert late.count(2) > 0.6 * len(late)


def test_tree_lora_strength_holds_a_near_the_past_and_without_it_only_cross_entropy_is_left(
    nouns, tiny_bert
):
    def far(strength):
        learner, data = in_tree(nouns, tiny_bert, strength=strength, scale="paper")
        trained_on(learner, data)
        return learner.strategy.step(learner.model, data, NO_REPLAY)

    free, held = far(0.0), far(20.0)
    assert held.metrics["distance"] < 0.8 * free.metrics["distance"]
    learner, data = in_tree(nouns, tiny_bert, strength=0.0)
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    plain = F.cross_entropy(logits_of(learner, data)[:, 4:], data.labels - 4)
    torch.testing.assert_close(loss, plain)
