"""I-LoRA, TreeLoRA, Online-LoRA and CoLoR against naive versions written from the papers."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans

from lamina.adapters import kind_class
from lamina.adapters.kinds.lora import modules_of
from lamina.adapters.model import HEAD, MAIN, AdaptedModel
from lamina.core import Batch, Summary, generator_of
from lamina.memory.memory import Replay
from lamina.strategies.i_lora import MEMORY, MEMORY_HEAD
from lamina.strategies.online_lora import PAST, OnlineLoRA
from lamina.strategies.tree_lora import TreeLoRA, grow, lower_bound
from lamina.training.settings import TrainingSettings
from lamina.training.workers import added
from nouns import NO_REPLAY, after, drift, logits_of, make_learner


def tensors_of(learner, name):
    return {k: v.detach().clone() for k, v in learner.model.adapters[name].tensors.items()}


def trained_on(learner, data):
    """One more pass over the task under way."""
    learner._descend(learner.stream.experiences[learner.next_task].task, data)
    return learner


# i_lora


def test_i_lora_halves_both_losses_and_pulls_features_up_to_the_memorys(nouns, tiny_bert):
    learner, data = after(1, "i_lora", nouns, tiny_bert, replay_size=5, consistency=3.0)
    replay = Replay(learner.memory, learner._rows, 11, "cpu")
    exemplars = replay.draw(5)
    working = learner.model(exemplars.inputs)
    remembered = learner.model(exemplars.inputs, adapters=[MEMORY]).features
    below = 0.0
    for fast, slow in zip(working.features.flatten(), remembered.flatten(), strict=True):
        target = slow if fast <= slow else fast
        below += (fast - target) ** 2 / working.features.numel()
    assert below > 0
    plain = F.cross_entropy(logits_of(learner, data), data.labels)
    replayed = F.cross_entropy(working.logits, exemplars.labels)
    loss = learner.strategy.step(learner.model, data, replay).loss
    torch.testing.assert_close(loss, (plain + replayed) / 2 + 3.0 * below, atol=1e-5, rtol=1e-4)


def test_i_lora_memory_interpolates_every_step_and_takes_new_rows_over(nouns, tiny_bert):
    learner, _ = after(1, "i_lora", nouns, tiny_bert, decay=0.9)
    strategy, model = learner.strategy, learner.model
    pairs = ((MAIN, MEMORY), (HEAD, MEMORY_HEAD))
    slow = {memory: tensors_of(learner, memory) for _, memory in pairs}
    assert strategy.state["num_steps"] == 6
    strategy.after_step(model, None)
    for working, memory in pairs:
        for key, fast in tensors_of(learner, working).items():
            known = len(slow[memory][key])
            a = min(1 - 1 / 8, 0.9)
            naive = torch.cat([a * slow[memory][key] + (1 - a) * fast[:known], fast[known:]])
            torch.testing.assert_close(model.adapters[memory].tensors[key], naive)
    assert len(model.adapters[MEMORY_HEAD].tensors["bias"]) == 4
    assert not model.adapters[MEMORY].trainable


def test_i_lora_answers_with_its_memory(nouns, tiny_bert):
    learner = make_learner("i_lora", nouns, tiny_bert)
    list(learner.learn())
    inputs = nouns.experiences[0].test.inputs
    logits = learner.strategy.predict(learner.model, inputs, None)
    by_hand = learner.model(inputs, adapters=[MEMORY], head=MEMORY_HEAD).logits
    torch.testing.assert_close(logits, by_hand)
    assert (logits - learner.model(inputs).logits).abs().max() > 1e-3


def test_i_lora_that_keeps_nothing_is_its_working_adapter_and_slower_memories_lag(nouns, tiny_bert):
    def lag(decay):
        learner = make_learner("i_lora", nouns, tiny_bert, decay=decay)
        list(learner.learn())
        fast, slow = tensors_of(learner, MAIN), tensors_of(learner, MEMORY)
        return sum((fast[k] - slow[k]).abs().sum().item() for k in fast)

    assert lag(0.0) == 0.0
    assert 0 < lag(0.5) < lag(0.95)


def test_i_lora_consistency_holds_features_up(nouns, tiny_bert):
    def below(weight):
        learner, data = after(1, "i_lora", nouns, tiny_bert, consistency=weight, decay=0.99)
        trained_on(learner, data)
        replay = Replay(learner.memory, learner._rows, 3, "cpu")
        return learner.strategy.step(learner.model, data, replay).metrics["consistency"]

    assert below(100.0) < 0.7 * below(0.0)


def task_free(nouns):
    return replace(nouns, scenario="task_free")


@pytest.mark.parametrize("name", ["i_lora", "online_lora"])
def test_it_needs_no_task_boundary(name, nouns, tiny_bert):
    learner = make_learner(name, task_free(nouns), tiny_bert)
    before = {k: v.detach().clone() for k, v in learner.model.parameters().items()}
    reports = list(learner.learn())
    assert len(reports) == 3
    assert drift(learner, before) > 0
    inputs = nouns.experiences[0].test.inputs
    assert learner.strategy.predict(learner.model, inputs, None).isfinite().all()


# tree_lora


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


# online_lora


def seen(losses, hard=(), label=0, width=3):
    """What a step saw: rows that can be told apart by their first token."""
    own = torch.tensor(losses)
    rows = torch.tensor([[int(10 * x)] + [1] * (width - 1) for x in losses])
    return Summary(
        {
            "total": own.sum(),
            "number": torch.tensor(float(len(losses))),
            "hard": torch.tensor(hard),
            "workers": torch.tensor(1.0),
        },
        {
            "loss": own,
            "label": torch.full((len(losses),), label),
            "input.input_ids": rows,
            "input.attention_mask": torch.ones_like(rows),
        },
    )


def online(backbone, **settings):
    model = AdaptedModel(backbone, kind_class("lora")(), 0)
    model.grow_head(4)
    strategy = OnlineLoRA(**settings)
    strategy.setup(model)
    return strategy, model


def test_online_lora_adds_the_hard_rows_and_the_importance_of_what_is_trained(nouns, tiny_bert):
    learner, data = after(1, "online_lora", nouns, tiny_bert, strength=30.0, hard_size=3)
    strategy, model = learner.strategy, learner.model
    generator = generator_of(0, "importance")
    main = model.adapters[MAIN].tensors
    importance = {k: torch.rand(v.shape, generator=generator) for k, v in main.items()}
    strategy.state["importance"] = importance
    hard = strategy.state["hard"]
    assert len(hard["label"]) == 3
    inputs = {k.removeprefix("input."): v for k, v in hard.items() if k.startswith("input.")}
    rows = Batch(inputs, hard["label"], torch.arange(3)).trimmed()
    penalty = sum((importance[k] * v.detach() ** 2).sum() for k, v in main.items())
    naive = (
        F.cross_entropy(logits_of(learner, data), data.labels)
        + F.cross_entropy(logits_of(learner, rows), rows.labels)
        + 30.0 / 2 * penalty
    )
    loss = strategy.step(model, data, NO_REPLAY).loss
    torch.testing.assert_close(loss, naive, atol=1e-5, rtol=1e-4)


def test_online_lora_keeps_the_rows_of_highest_loss_of_batch_and_kept(tiny_bert):
    strategy, model = online(tiny_bert, hard_size=2, mean_threshold=0.0)
    strategy.after_step(model, seen([3.0, 1.0, 2.0]))
    assert strategy.state["hard"]["input.input_ids"][:, 0].tolist() == [30, 20]
    strategy.after_step(model, seen([2.5, 0.5], hard=(0.1, 2.7)))
    assert strategy.state["hard"]["input.input_ids"][:, 0].tolist() == [20, 25]


def test_online_lora_merges_where_the_loss_settles_and_again_only_after_a_peak(tiny_bert):
    strategy, model = online(tiny_bert, window=3, mean_threshold=1.0, variance_threshold=0.05)
    merges = []
    for loss in [4.0, 0.9, 0.8, 0.85, 0.8, 0.8, 3.0, 3.0, 0.7, 0.6, 0.6, 0.6]:
        strategy.after_step(model, seen([loss, loss], hard=(0.0,) if merges else ()))
        merges.append(strategy.state["num_merges"])
    assert merges == [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 2, 2]


def test_online_lora_merge_adds_the_product_and_begins_with_a_live_gradient(nouns, tiny_bert):
    learner, data = after(1, "online_lora", nouns, tiny_bert, mean_threshold=0.0)
    strategy, model = learner.strategy, learner.model
    assert strategy.state["num_merges"] == 0
    old, before = tensors_of(learner, MAIN), model(data.inputs).logits.detach()
    leaves = {k: id(v) for k, v in model.adapters[MAIN].tensors.items()}
    for number in (1, 2):
        strategy._renew(model)
        torch.testing.assert_close(model(data.inputs).logits, before, atol=1e-6, rtol=0)
        assert model.active == [PAST, MAIN]
        assert {k: id(v) for k, v in model.adapters[MAIN].tensors.items()} == leaves
        past, main = tensors_of(learner, PAST), tensors_of(learner, MAIN)
        for module in modules_of(main):
            a, b = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
            torch.testing.assert_close(past[b] @ past[a], old[b] @ old[a])
            assert past[a].shape[0] == number * 8
            assert main[a].abs().max() > 0.01
            assert not main[b].any()
    loss = F.cross_entropy(model(data.inputs).logits, data.labels)
    b = [v for k, v in model.adapters[MAIN].tensors.items() if "lora_B" in k]
    assert all(gradient.abs().max() > 0 for gradient in torch.autograd.grad(loss, b))


def test_online_lora_importance_averages_squared_gradients_of_the_hard_rows(nouns, tiny_bert):
    learner, _ = after(1, "online_lora", nouns, tiny_bert, mean_threshold=0.0)
    strategy, model = learner.strategy, learner.model
    rows = strategy._hard_rows()
    past = {k: torch.full_like(v, 0.3) for k, v in tensors_of(learner, MAIN).items()}
    strategy.state.update(importance=past, num_merges=2)
    names, leaves = zip(*model.adapters[MAIN].tensors.items(), strict=True)
    naive = {name: 2 / 3 * past[name] for name in names}
    for one in rows.chunks(1):
        logits = model(one.inputs).logits
        loss = F.nll_loss(logits.log_softmax(1), logits.argmax(1))
        for name, gradient in zip(names, torch.autograd.grad(loss, leaves), strict=True):
            naive[name] += gradient**2 / len(rows) / 3
    strategy._renew(model)
    for name in names:
        torch.testing.assert_close(
            strategy.state["importance"][name], naive[name], atol=1e-7, rtol=1e-3
        )


def test_online_lora_strength_holds_the_new_lora_down(nouns, tiny_bert):
    def size(strength):
        learner, data = after(1, "online_lora", nouns, tiny_bert, strength=strength)
        main = learner.model.adapters[MAIN].tensors
        ones = {k: torch.ones_like(v) for k, v in main.items()}
        learner.strategy.state["importance"] = ones
        learner.strategy.mean_threshold = 0.0
        trained_on(learner, data)
        return sum(v.square().sum().item() for v in main.values())

    assert size(10.0) < 0.9 * size(0.0)


def test_online_lora_without_penalty_or_merges_is_cross_entropy_on_batch_and_hard_rows(
    nouns, tiny_bert
):
    learner, data = after(1, "online_lora", nouns, tiny_bert, strength=0.0, mean_threshold=0.0)
    assert learner.model.active == [MAIN]
    rows = learner.strategy._hard_rows()
    naive = sum(F.cross_entropy(logits_of(learner, x), x.labels) for x in (data, rows))
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    torch.testing.assert_close(loss, naive, atol=1e-5, rtol=1e-4)


class Two:
    """Two workers that know each other's tensors, in turn."""

    rank, size = 0, 2

    def __init__(self, other):
        self.other = other

    def add(self, tensors):
        return [a + b for a, b in zip(tensors, self.other.sums.values(), strict=True)]

    def gather(self, tensor):
        name = next(k for k, v in self.mine.rows.items() if v is tensor)
        return torch.cat([tensor, self.other.rows[name]])


def test_online_lora_chooses_the_same_hard_rows_whoever_saw_them(nouns, tiny_bert):
    learner, data = after(1, "online_lora", nouns, tiny_bert, mean_threshold=0.0)
    strategy, model = learner.strategy, learner.model
    whole = strategy.step(model, data, NO_REPLAY).seen
    halves = [data[slice(rank, None, 2)].trimmed() for rank in range(2)]
    parts = [strategy.step(model, each, NO_REPLAY).seen for each in halves]
    workers = Two(parts[1])
    workers.mine = parts[0]
    together = added(parts[0], workers)
    before = {k: v.clone() for k, v in strategy.state["hard"].items()}
    window = list(strategy.state["losses"])
    results = []
    for each in (whole, together):
        strategy.state.update(hard=before, losses=window)
        strategy.after_step(model, each)
        hard = strategy.state["hard"]
        results.append((strategy.state["losses"], sorted(hard["input.input_ids"].tolist())))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    assert results[0][1] == results[1][1]


# color


def test_color_learns_each_task_with_its_own_lora_and_classifier(nouns, tiny_bert):
    learner, data = after(1, "color", nouns, tiny_bert)
    model = learner.model
    assert {name.split(".")[0] for name in model.parameters()} == {"task_1", "head_1"}
    loss = learner.strategy.step(model, data, NO_REPLAY).loss
    features = model(data.inputs, adapters=["task_1"]).features
    head = model.adapters["head_1"].tensors
    logits = features @ head["weight"].T + head["bias"]
    torch.testing.assert_close(loss, F.cross_entropy(logits, data.labels - 2))
    kept = tensors_of(learner, "task_0")
    trained_on(learner, data)
    assert all(torch.equal(kept[k], v) for k, v in tensors_of(learner, "task_0").items())


def test_color_centres_are_a_fixed_point_of_k_means_on_the_frozen_features(nouns, tiny_bert):
    learner = make_learner("color", nouns, tiny_bert, clusters=3)
    list(learner.learn())
    for experience, centres in zip(
        nouns.experiences, learner.strategy.state["centres"], strict=True
    ):
        features = tiny_bert(experience.train.inputs).features.detach().numpy()
        theirs = KMeans(3, init=centres.numpy(), n_init=1).fit(features)
        torch.testing.assert_close(
            centres, torch.from_numpy(theirs.cluster_centers_), atol=1e-5, rtol=1e-4
        )


def test_color_routes_to_the_task_of_the_nearest_centre_and_answers_with_it(nouns, tiny_bert):
    learner = make_learner("color", nouns, tiny_bert, clusters=2)
    list(learner.learn())
    strategy, model = learner.strategy, learner.model
    data = Batch.cat([each.test for each in nouns.experiences])
    routed = strategy.route(model, data.inputs)
    logits = strategy.predict(model, data.inputs, None)
    assert logits.shape == (len(data), 6)
    for row, one in enumerate(data.chunks(1)):
        feature = tiny_bert(one.inputs).features[0]
        distances = [
            min(float((feature - centre).norm()) for centre in centres)
            for centres in strategy.state["centres"]
        ]
        task = distances.index(min(distances))
        assert int(routed[row]) == task
        own = model(one.inputs, adapters=[f"task_{task}"], head=f"head_{task}").logits[0]
        expected = torch.full((6,), -math.inf)
        expected[2 * task : 2 * task + 2] = own.detach()
        torch.testing.assert_close(logits[row], expected, atol=1e-5, rtol=1e-4)
    told = strategy.predict(model, data.inputs, nouns.experiences[2].task)
    assert told[:, 4:].isfinite().all()
    assert (told[:, :4] == -math.inf).all()


def test_color_number_of_centres_moves_the_routing(nouns, tiny_bert):
    data = Batch.cat([each.test for each in nouns.experiences])

    def routed(clusters):
        learner = make_learner("color", nouns, tiny_bert, clusters=clusters)
        list(learner.learn())
        assert [len(each) for each in learner.strategy.state["centres"]] == [clusters] * 3
        return learner.strategy.route(learner.model, data.inputs)

    assert not torch.equal(routed(1), routed(8))


def test_color_on_domains_gives_each_domain_its_classifier_of_the_same_classes(nouns, tiny_bert):
    classes = (1, 0)
    experiences = tuple(
        replace(
            each,
            task=replace(each.task, classes=classes),
            **{
                part: replace(
                    each.part(part),
                    labels=each.part(part).labels % 2,
                    task=replace(each.task, classes=classes),
                )
                for part in ("train", "validation", "test")
            },
        )
        for each in nouns.experiences
    )
    stream = replace(nouns, scenario="domain_incremental", experiences=experiences)
    learner = make_learner(
        "color",
        stream,
        tiny_bert,
        training=TrainingSettings(epochs=8, batch_size=4, learning_rate=2e-2),
    )
    list(learner.learn())
    assert learner.strategy.state["classes"] == [[1, 0]] * 3
    for experience in experiences:
        rows = experience.train
        logits = learner.strategy.predict(learner.model, rows.inputs, experience.task)
        assert (logits.argmax(1) == rows.labels).float().mean() > 0.7


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("i_lora", {"decay": 1.0}, "strategy.decay"),
        ("i_lora", {"replay_size": -1}, "strategy.replay_size"),
        ("tree_lora", {"strength": -1.0}, "strategy.strength"),
        ("online_lora", {"window": 0}, "strategy.window"),
        ("color", {"clusters": 0}, "strategy.clusters"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_key(name, settings, key, nouns, tiny_bert):
    with pytest.raises(ValueError, match=key):
        make_learner(name, nouns, tiny_bert, **settings)
