"""CPrompt, ConvPrompt, VQ-Prompt, OVOR, PGP and MoCL against naive versions from their papers."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import NearestNeighbors

from lamina.adapters.model import HEAD
from lamina.adapters.prompt_pool import POOL
from lamina.backbones.overlay import Overlay
from lamina.core import Summary, Task, generator_of
from lamina.strategies.convprompt import convolved
from lamina.strategies.cprompt import self_distillation
from lamina.strategies.mocl import composed
from lamina.strategies.ovor import (
    energy_bounds,
    outermost,
    paired_batches,
    virtual_outliers,
)
from lamina.strategies.pgp import gram_of_sums
from nouns import NO_REPLAY, after, make_learner, nouns_stream

NAMES = ["cprompt", "convprompt", "vq_prompt", "ovor", "pgp", "mocl"]
SMALL = {
    "cprompt": {"length": 3},
    "convprompt": {"length": 4, "kernel": 3},
    "ovor": {"g_length": 4, "e_length": 4},
}


def small(name, **settings):
    return {**SMALL.get(name, {}), **settings}


def learned(learner, data):
    """Train the task that has begun."""
    learner._descend(learner.stream.experiences[learner.next_task].task, data)
    return learner


def predict(learner, data, task=None):
    with torch.no_grad():
        return learner.strategy.predict(learner.model, data.inputs, task)


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_where_a_picture_is_bright(name, shapes, tiny_vit):
    adapter = "prefix" if name == "mocl" else None
    learner = make_learner(name, shapes, tiny_vit, adapter=adapter, **small(name))
    reports = list(learner.learn())
    assert len(reports) == 3
    data = shapes.experiences[1].test
    logits = predict(learner, data)
    assert logits.shape == (len(data), 6)
    assert logits.isfinite().all()
    alone = torch.cat([predict(learner, one) for one in data.chunks(1)])
    torch.testing.assert_close(logits, alone, atol=1e-4, rtol=1e-4)


# mocl


@pytest.mark.parametrize("adapter", ["prefix", "prompt", "lora"])
def test_mocl_composes_each_rows_modules_by_the_softmax_of_scaled_cosines(
    adapter, nouns, tiny_bert
):
    learner, data = after(2, "mocl", nouns, tiny_bert, adapter=adapter, scale=3.0, matching=0.4)
    model, strategy = learner.model, learner.strategy
    query = tiny_bert(data.inputs).features
    keys = [model.adapters[f"key_{i}"].tensors["key"] for i in range(3)]
    cosines = torch.stack([F.cosine_similarity(query, key[None]) for key in keys], dim=1)
    kind, logits = model.kind, []
    for n, one in enumerate(data.chunks(1)):
        weights = (3.0 * cosines[n]).softmax(0)
        if adapter == "lora":
            overlay = Overlay()
            for i in range(3):
                tensors = {
                    name: weights[i] * tensor if "lora_B" in name else tensor
                    for name, tensor in model.adapters[f"task_{i}"].tensors.items()
                }
                overlay = overlay | kind.overlay(tensors, tiny_bert)
        else:
            mixed = sum(
                weights[i] * model.adapters[f"task_{i}"].tensors["prompt_embeddings"]
                for i in range(3)
            )
            overlay = kind.overlay({"prompt_embeddings": mixed}, tiny_bert)
        logits.append(model.logits(tiny_bert(one.inputs, overlay).features))
    logits = torch.cat(logits)
    torch.testing.assert_close(predict(learner, data), logits, atol=1e-5, rtol=1e-4)
    loss = strategy.step(model, data, NO_REPLAY).loss
    plain = F.cross_entropy(logits[:, 4:6], data.labels - 4)
    naive = plain + 0.4 * (1 - cosines[:, 2]).mean()
    torch.testing.assert_close(loss, naive, atol=1e-5, rtol=1e-4)


def test_mocl_of_loras_is_the_weighted_sum_of_their_updates():
    generator = generator_of(0)
    modules = [
        {
            "m.lora_A.weight": torch.randn(2, 5, generator=generator),
            "m.lora_B.weight": torch.randn(4, 2, generator=generator),
        }
        for _ in range(3)
    ]
    weights = torch.rand(6, 3, generator=generator)
    module = composed(modules, weights)
    for n in range(6):
        naive = sum(
            weights[n, i] * m["m.lora_B.weight"] @ m["m.lora_A.weight"]
            for i, m in enumerate(modules)
        )
        torch.testing.assert_close(module["m.lora_B.weight"][n] @ module["m.lora_A.weight"], naive)


def test_mocl_freezes_earlier_modules_and_uses_a_tasks_own_when_it_is_given(nouns, tiny_bert):
    learner, data = after(1, "mocl", nouns, tiny_bert, adapter="prefix")
    kept = {k: v.clone() for k, v in learner.model.adapters["task_0"].tensors.items()}
    earlier = nouns.experiences[0].test
    before = predict(learner, earlier, Task(0, "first", (0, 1)))[:, :2]
    learned(learner, data)
    groups = {name.split(".")[0] for name in learner.model.parameters()}
    assert groups == {"head", "task_1", "key_1"}
    assert all(torch.equal(learner.model.adapters["task_0"].tensors[k], v) for k, v in kept.items())
    given = predict(learner, earlier, Task(0, "first", (0, 1)))[:, :2]
    torch.testing.assert_close(given, before, atol=2e-3, rtol=2e-3)
    assert (predict(learner, earlier)[:, :2] - before).abs().max() > 1e-2


def test_mocl_key_comes_to_its_queries_and_scale_sharpens_the_composition(nouns, tiny_bert):
    def distance(**settings):
        learner, data = after(0, "mocl", nouns, tiny_bert, adapter="prefix", **settings)
        learned(learner, data)
        return learner.strategy.step(learner.model, data, NO_REPLAY).metrics["key_distance"]

    assert distance(matching=5.0) < distance(matching=0.0) - 0.05
    flat, sharp = (
        predict(after(1, "mocl", nouns, tiny_bert, adapter="prefix", scale=s)[0], data)
        for s, data in ((0.0, nouns.experiences[1].test), (50.0, nouns.experiences[1].test))
    )
    assert (flat - sharp).abs().max() > 1e-3


# pgp


def test_pgp_sums_every_token_of_an_input_with_every_token_of_its_prompts():
    generator = generator_of(0)
    tokens = torch.randn(3, 4, 5, generator=generator)
    prompts = torch.randn(3, 2, 5, generator=generator)
    mask = torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])
    naive = torch.zeros(5, 5)
    for n in range(3):
        for i in range(4):
            for j in range(2):
                s = tokens[n, i] + prompts[n, j]
                naive += mask[n, i] * torch.outer(s, s)
    torch.testing.assert_close(gram_of_sums(tokens, prompts, mask), naive)


def test_pgp_reads_the_prompts_where_the_first_attention_does(shapes, tiny_vit):
    learner, data = after(0, "pgp", shapes, tiny_vit, pool_size=3, top_k=2, length=2)
    model, strategy = learner.model, learner.strategy
    picked = torch.tensor([[0, 2]] * len(data))
    prompts = model.adapters[POOL].tensors["prompts"]
    tokens = strategy.tokens(model, data.inputs, picked)
    norm = tiny_vit.model.layers[0].layernorm_before
    own = torch.cat([prompts[0], prompts[2]])
    torch.testing.assert_close(tokens[0, 1:5], norm(own))
    with torch.no_grad():
        embedded = norm(tiny_vit.model.embeddings(data.inputs["pixel_values"]))
    torch.testing.assert_close(tokens[:, 0], embedded[:, 0])
    torch.testing.assert_close(tokens[:, 5:], embedded[:, 1:])


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_pgp_gradients_have_no_part_in_the_leading_directions_of_the_past(share, nouns, tiny_bert):
    learner, _ = after(1, "pgp", nouns, tiny_bert, prompts=share, keys=share)
    review = learner._summed(learner.strategy.review, nouns.experiences[0].train)
    for name in ("prompts", "keys"):
        values, vectors = torch.linalg.eigh(review[name].double())
        most = {"prompts": 9, "keys": 5}[name]
        energies, vectors = values.flip(0)[:most].square(), vectors.flip(1).float()
        k = int((energies.cumsum(0) < share * energies.sum()).sum()) + 1
        shape = (10, 5, 32) if name == "prompts" else (10, 32)
        gradient = torch.randn(shape, generator=generator_of(3))
        gradients = {f"pool.{each}": torch.zeros(1, 32) for each in ("prompts", "keys")}
        gradients[f"pool.{name}"] = gradient
        left = learner.strategy.adjust(learner.model, gradients, [])[f"pool.{name}"]
        naive = gradient - gradient @ vectors[:, :k] @ vectors[:, :k].T
        torch.testing.assert_close(left, naive, atol=1e-4, rtol=1e-4)


def test_pgp_takes_a_few_leading_directions_of_each_task(nouns, tiny_bert):
    learner = make_learner("pgp", nouns, tiny_bert, prompts=1.0, keys=1.0)
    for number, _ in enumerate(learner.learn(), start=1):
        for name, most in (("prompts", 9), ("keys", 5)):
            taken = learner.strategy.state["taken"][name]
            width = taken["basis"].shape[1]
            width = 32 - width if taken["is_complement"] else width
            assert 0 < width <= number * most


def test_pgp_of_no_energy_is_l2p_and_of_all_energy_moves_no_prompt(nouns, tiny_bert):
    def run(name, **settings):
        learner, data = after(1, name, nouns, tiny_bert, **settings)
        before = {k: v.clone() for k, v in learner.model.adapters[POOL].tensors.items()}
        after_all = learned(learner, data).model.adapters[POOL].tensors
        return before, after_all

    _, l2p = run("l2p")
    _, free = run("pgp", prompts=0.0, keys=0.0)
    assert all(torch.equal(l2p[name], free[name]) for name in l2p)
    before, held = run("pgp", prompts=1.0, keys=1.0)
    moved = {name: (held[name] - before[name]).abs().mean() for name in held}
    freely = {name: (free[name] - before[name]).abs().mean() for name in free}
    assert moved["prompts"] < 0.6 * freely["prompts"]


# vq_prompt


def naive_vq(learner, backbone, data):
    """Mixtures and nearest prompts, per row and layer by loops."""
    pool, tau = learner.model.adapters[POOL].tensors, learner.strategy.temperature
    queries = backbone(data.inputs).features
    mixtures, nearest = [], []
    for query in queries:
        for keys, prompts in zip(pool["keys"], pool["prompts"], strict=True):
            alpha = torch.stack([query @ key / key.norm() / tau for key in keys]).softmax(0)
            mixture = sum(a * p for a, p in zip(alpha, prompts, strict=True))
            index = min(range(len(prompts)), key=lambda m: (prompts[m] - mixture).norm().item())
            mixtures.append(mixture)
            nearest.append(prompts[index])
    shape = (len(data), -1, *pool["prompts"].shape[2:])
    return torch.stack(mixtures).reshape(shape), torch.stack(nearest).reshape(shape)


def test_vq_prompt_lays_the_nearest_prompt_over_and_pays_for_its_distance(nouns, tiny_bert):
    learner, data = after(
        1, "vq_prompt", nouns, tiny_bert, temperature=0.1, quantisation=0.6, commitment=0.3
    )
    model, strategy = learner.model, learner.strategy
    mixtures, nearest = naive_vq(learner, tiny_bert, data)
    layers = strategy.layers_of(model)
    overlay = Overlay(
        prefixes={layer: [(nearest[:, i, :4], nearest[:, i, 4:])] for i, layer in enumerate(layers)}
    )
    logits = model.logits(tiny_bert(data.inputs, overlay).features)
    torch.testing.assert_close(predict(learner, data), logits, atol=1e-5, rtol=1e-4)
    apart = sum(F.mse_loss(mixtures[:, i], nearest[:, i]) for i in range(len(layers)))
    naive = F.cross_entropy(logits[:, 2:4], data.labels - 2) + (0.6 + 0.3) * apart
    loss = strategy.step(model, data, NO_REPLAY).loss
    torch.testing.assert_close(loss, naive, atol=1e-5, rtol=1e-4)


def test_vq_prompt_keys_learn_from_the_tasks_loss_through_the_choice(nouns, tiny_bert):
    learner, data = after(0, "vq_prompt", nouns, tiny_bert, quantisation=0.0, commitment=0.0)
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    keys = learner.model.adapters[POOL].tensors["keys"]
    (gradient,) = torch.autograd.grad(loss, keys)
    assert gradient.abs().max() > 0


def test_vq_prompt_weights_draw_mixture_and_prompt_together(nouns, tiny_bert):
    def apart(weight):
        settings = {"quantisation": weight, "commitment": weight}
        learner, data = after(0, "vq_prompt", nouns, tiny_bert, **settings)
        learned(learner, data)
        return learner.strategy.step(learner.model, data, NO_REPLAY).metrics["quantisation"]

    assert apart(20.0) < 0.8 * apart(0.0)


def test_vq_prompt_refits_the_head_on_all_classes_or_leaves_it(nouns, tiny_bert):
    def heads(epochs):
        learner, data = after(1, "vq_prompt", nouns, tiny_bert, alignment_epochs=epochs)
        learned(learner, data)
        before = learner.model.adapters[HEAD].tensors["weight"].detach().clone()
        review = learner._summed(learner.strategy.review, data)
        learner.strategy.end_task(learner.model, nouns.experiences[1].task, review)
        assert (learner.strategy.state["gaussians"]["count"] == 5).all()
        return before, learner.model.adapters[HEAD].tensors["weight"]

    before, left = heads(0)
    assert torch.equal(before, left)
    before, refitted = heads(3)
    assert ((refitted - before).abs().amax(dim=1) > 1e-3).all()


# ovor


def test_ovor_finds_the_outermost_as_nearest_neighbours_of_scikit_learn():
    generator = generator_of(0)
    features = torch.randn(30, 6, generator=generator)
    points = torch.randn(40, 6, generator=generator)
    searcher = NearestNeighbors(n_neighbors=4).fit(F.normalize(features).numpy())
    distances, _ = searcher.kneighbors(F.normalize(points).numpy())
    theirs = set(distances[:, 3].argsort()[-7:].tolist())
    assert set(outermost(points, features, 7, 4).tolist()) == theirs


def test_ovor_outliers_surround_the_boundary_and_lie_further_out_than_it():
    features = torch.randn(80, 8, generator=generator_of(0)) + 4
    outliers = virtual_outliers(features, 25, generator_of(1), 10, 0.5)
    assert outliers.shape == (25, 8)
    centres = features[outermost(features, features, 50, 10)]
    assert torch.cdist(outliers, centres).amin(dim=1).max() < 5 * 0.5 * 8**0.5
    closest = {
        name: torch.cdist(F.normalize(points), F.normalize(features)).kthvalue(10, dim=1).values
        for name, points in (("inside", features), ("outside", outliers))
    }
    assert closest["outside"].min() > closest["inside"].mean()


def test_ovor_uses_every_feature_and_every_outlier_once_an_epoch():
    plan = paired_batches(300, 70, 2, generator_of(0))
    assert len(plan) == 2 * 3
    for half in (plan[:3], plan[3:]):
        assert sorted(torch.cat([own for own, _ in half]).tolist()) == list(range(300))
        assert sorted(torch.cat([out for _, out in half]).tolist()) == list(range(70))


def test_ovor_regularisation_is_the_huber_of_energies_out_of_bounds():
    inside = torch.tensor([[20.0, 1.0], [3.0, 2.0]])
    outside = torch.tensor([[1.0, 0.5], [4.0, 4.0], [9.0, 0.0]])

    def huber(x):
        return 0.5 * x**2 if x < 1 else x - 0.5

    def energy(row):
        return -float(row.exp().sum().log())

    high = [huber(max(0.0, energy(row) + 15.0)) for row in inside]
    low = [huber(max(0.0, -3.0 - energy(row))) for row in outside]
    naive = torch.tensor(sum(high) / 2 + sum(low) / 3)
    torch.testing.assert_close(energy_bounds(inside, outside, -15.0, -3.0), naive)


def energies(learner, data, outliers, classes):
    head = learner.model.adapters[HEAD].tensors
    features = learner.strategy.features(learner.model, data.inputs)
    return [
        -F.linear(rows, head["weight"][classes], head["bias"][classes]).logsumexp(1).mean()
        for rows in (features, outliers)
    ]


def test_ovor_regularisation_parts_the_energies_and_moves_the_tasks_rows_only(nouns, tiny_bert):
    def run(weight):
        learner, data = after(
            1, "ovor", nouns, tiny_bert, **small("ovor", regularisation=weight, neighbours=3)
        )
        learned(learner, data)
        before = {k: v.detach().clone() for k, v in learner.model.adapters[HEAD].tensors.items()}
        review = learner._summed(learner.strategy.review, data)
        learner.strategy.end_task(learner.model, nouns.experiences[1].task, review)
        head = learner.model.adapters[HEAD].tensors
        assert torch.equal(head["weight"][:2], before["weight"][:2])
        assert not torch.equal(head["weight"][2:], before["weight"][2:])
        outliers = virtual_outliers(review["features"], 20, generator_of(9), 3, 1.0)
        with torch.no_grad():
            inside, outside = energies(learner, data, outliers, [2, 3])
        return inside, outside

    plain, bounded = run(0.0), run(3.0)
    assert bounded[0] < plain[0] - 0.1
    assert bounded[1] - bounded[0] > plain[1] - plain[0]


def test_ovor_is_one_prompt_of_keys_and_values_in_two_places(minilm):
    learner = make_learner("ovor", nouns_stream(minilm), minilm, **small("ovor", e_length=6))
    data = learner.stream.experiences[0].train
    learner.model.grow_head(2)
    tensors = learner.model.adapters["prompt"].tensors
    assert tensors["g"].shape == (1, 2, 2, 384)
    assert tensors["e"].shape == (2, 2, 3, 384)
    places = {0: tensors["g"][0], 1: tensors["e"][0], 2: tensors["e"][1]}
    overlay = Overlay(prefixes={layer: [(own[0], own[1])] for layer, own in places.items()})
    logits = learner.model.logits(minilm(data.inputs, overlay).features)
    torch.testing.assert_close(predict(learner, data), logits)


# cprompt


def task_tensors(learner, index):
    return learner.model.adapters[f"task_{index}"].tensors


def cprompt_features(learner, backbone, data, index):
    """Of one task's prompts: tokens before the input, keys and values at the middle layer."""
    tokens = task_tensors(learner, index)["tokens"]
    overlay = Overlay(prompts=[tokens[0]], prefixes={0: [(tokens[1], tokens[2])]})
    return backbone(data.inputs, overlay).features


def test_cprompt_loss_is_the_sum_of_its_four_parts(nouns, tiny_bert):
    settings = small("cprompt", consistency=0.7, smoothing=2.0, margin=0.05)
    learner, data = after(2, "cprompt", nouns, tiny_bert, **settings)
    model, strategy = learner.model, learner.strategy
    with torch.no_grad():
        task_tensors(learner, 2)["tokens"].add_(torch.randn(3, 3, 32, generator=generator_of(5)))
    labels = data.labels - 4
    own = cprompt_features(learner, tiny_bert, data, 2)
    auxiliary = F.cross_entropy(model.logits(own)[:, 4:6], labels)
    current = model.logits(own, "classifier_2")
    consistency, sure = 0.0, []
    for k in range(2):
        for row, mine in zip(model.logits(own, f"classifier_{k}"), current, strict=True):
            sure.append(bool(mine.max() > row.max() + 0.05))
            target = (row / (1.0 if sure[-1] else 2.0)).softmax(0)
            consistency -= (target * row.log_softmax(0)).sum() / len(data) / 2
    assert len(set(sure)) == 2
    query = tiny_bert(data.inputs).features
    keys = torch.cat([task_tensors(learner, k)["keys"] for k in range(3)])
    cosines = torch.stack([F.cosine_similarity(query, key[None]) for key in keys], dim=1)
    drawn = torch.randint(
        3, (len(data),), generator=generator_of(0, "cprompt", strategy.state["num_steps"])
    )
    assert len(drawn.unique()) == 3
    by_task = torch.stack([cprompt_features(learner, tiny_bert, data, k) for k in range(3)])
    mixed = by_task[drawn, torch.arange(len(data))]
    robust = F.cross_entropy(model.logits(mixed, "classifier_2"), labels)
    naive = auxiliary + 0.7 * consistency + F.cross_entropy(cosines, data.labels) + robust
    loss = strategy.step(model, data, NO_REPLAY).loss
    torch.testing.assert_close(loss, naive, atol=1e-5, rtol=1e-4)


def test_cprompt_consistency_at_temperature_one_has_no_gradient():
    logits = torch.randn(5, 3, generator=generator_of(0), requires_grad=True)
    unsure = torch.tensor([True, False, True, False, True])
    (still,) = torch.autograd.grad(self_distillation(logits, unsure, 1.0), logits)
    assert still.abs().max() < 1e-7
    (moved,) = torch.autograd.grad(self_distillation(logits, unsure, 1.5), logits)
    assert (moved[unsure].abs().amax(dim=1) > 1e-4).all()
    assert moved[~unsure].abs().max() < 1e-7


def test_cprompt_answers_with_all_classifiers_under_the_nearest_keys_prompts(nouns, tiny_bert):
    learner = make_learner("cprompt", nouns, tiny_bert, **small("cprompt"))
    list(learner.learn())
    data = nouns.experiences[1].test
    query = tiny_bert(data.inputs).features
    keys = torch.cat([task_tensors(learner, k)["keys"] for k in range(3)])
    nearest = torch.stack([F.cosine_similarity(query, key[None]) for key in keys], 1).argmax(1) // 2
    assert torch.equal(learner.strategy.route(learner.model, data.inputs), nearest)
    rows = []
    for n, one in enumerate(data.chunks(1)):
        features = cprompt_features(learner, tiny_bert, one, int(nearest[n]))
        rows.append(
            torch.cat([learner.model.logits(features, f"classifier_{k}") for k in range(3)], 1)
        )
    torch.testing.assert_close(predict(learner, data), torch.cat(rows), atol=1e-5, rtol=1e-4)
    own = learner.model.logits(cprompt_features(learner, tiny_bert, data, 1), "classifier_1")
    given = predict(learner, data, nouns.experiences[1].task)
    torch.testing.assert_close(given[:, 2:4], own, atol=1e-5, rtol=1e-4)
    assert given[:, [0, 1, 4, 5]].isneginf().all()


def test_cprompt_starts_prompts_where_the_last_ended_with_keys_apart(nouns, tiny_bert):
    learner, data = after(1, "cprompt", nouns, tiny_bert, **small("cprompt"))
    before = {k: v.clone() for k, v in task_tensors(learner, 0).items()}
    assert torch.equal(before["tokens"], task_tensors(learner, 1)["tokens"])
    keys = task_tensors(learner, 1)["keys"]
    torch.testing.assert_close(keys @ keys.T, torch.eye(2), atol=1e-5, rtol=0)
    assert (keys @ before["keys"].T).abs().max() < 1e-5
    learned(learner, data)
    assert all(torch.equal(before[k], v) for k, v in task_tensors(learner, 0).items())
    assert not torch.equal(before["tokens"], task_tensors(learner, 1)["tokens"])


def test_cprompt_answers_for_a_class_that_comes_back_with_its_best_row(nouns, tiny_bert):
    again = tuple(
        replace(
            each,
            task=replace(each.task, classes=(0, 1)),
            **{
                part: replace(
                    each.part(part),
                    labels=each.part(part).labels % 2,
                    task=replace(each.task, classes=(0, 1)),
                )
                for part in ("train", "validation", "test")
            },
        )
        for each in nouns.experiences
    )
    stream = replace(nouns, experiences=again, scenario="domain_incremental")
    learner = make_learner("cprompt", stream, tiny_bert, **small("cprompt"))
    list(learner.learn())
    data = again[0].test
    chosen = learner.strategy.route(learner.model, data.inputs)
    features = learner.strategy.features(learner.model, data.inputs, chosen)
    every = torch.stack([learner.model.logits(features, f"classifier_{k}") for k in range(3)])
    torch.testing.assert_close(predict(learner, data), every.amax(0))


# convprompt


def test_convprompt_kernels_slide_over_the_embeddings_of_each_layer_and_head():
    generator = generator_of(0)
    layers, heads, number, k = 2, 3, 2, 3
    channels = layers * 2 * heads
    embeddings = torch.randn(channels, 4 + k - 1, 5 + k - 1, generator=generator)
    kernels = torch.randn(number, channels, k, k, generator=generator)
    bias = torch.randn(number, channels, generator=generator)
    prompts = convolved(embeddings, kernels, bias, layers)
    assert prompts.shape == (layers, number, 2, 4, heads * 5)
    for layer in range(layers):
        for half in range(2):
            for head in range(heads):
                channel = (layer * 2 + half) * heads + head
                for j in range(number):
                    naive = F.conv2d(
                        embeddings[channel][None, None],
                        kernels[j, channel][None, None],
                        bias[j, channel][None],
                    )[0, 0]
                    own = prompts[layer, j, half, :, 5 * head : 5 * head + 5]
                    torch.testing.assert_close(own, naive, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("fixture", ["tiny_bert", "tiny_vit"])
def test_convprompt_weighs_kernels_by_the_first_token_that_enters_the_layer(fixture, request):
    backbone = request.getfixturevalue(fixture)
    stream = request.getfixturevalue("nouns" if fixture == "tiny_bert" else "shapes")
    learner, data = after(1, "convprompt", stream, backbone, **small("convprompt"))
    model = learner.model
    shared = model.adapters["shared"].tensors
    tasks = [model.adapters[f"task_{i}"].tensors for i in range(2)]
    parts = {name: torch.cat([each[name] for each in tasks]) for name in tasks[0]}
    prompts = convolved(shared["embeddings"], parts["kernels"], parts["bias"], 2)

    def prefix(tokens, layer):
        inner = (tokens[:, 0] @ shared["down.weight"].T + shared["down.bias"]).relu()
        query = inner @ shared["query.weight"].T + shared["query.bias"]
        cosines = torch.stack([F.cosine_similarity(query, k[None]) for k in parts["keys"]], 1)
        rows = [
            sum(c * prompt for c, prompt in zip(row, prompts[layer], strict=True))
            for row in cosines
        ]
        both = torch.stack(rows)
        return both[:, 0], both[:, 1]

    with torch.no_grad():
        first = backbone.model(**data.inputs, output_hidden_states=True).hidden_states[0]
    at_first = prefix(first, 0)
    overlay = Overlay(prefixes={0: [at_first], 1: [lambda tokens: prefix(tokens, 1)]})
    logits = model.logits(backbone(data.inputs, overlay).features)
    torch.testing.assert_close(predict(learner, data), logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("cosines", "number"), [((0.6, 0.2), 5), ((1.0, 1.0), 1), ((0.0, 0.0), 8)])
def test_convprompt_adds_as_many_kernels_as_a_task_is_unlike_the_past(
    cosines, number, nouns, tiny_bert
):
    learner, _ = after(0, "convprompt", nouns, tiny_bert, **small("convprompt", max_kernels=8))
    learner.model.grow_head(4)
    unit = torch.eye(32)
    learner.strategy.state["sums"] = {"count": torch.tensor([3.0, 5.0]), "total": 3 * unit[:2]}
    own = [c * unit[i] + (1 - c**2) ** 0.5 * unit[i + 2] for i, c in enumerate(cosines)]
    total = torch.stack([0 * unit[0], 0 * unit[0], 2 * own[0], 7 * own[1]])
    preview = Summary({"count": torch.tensor([0.0, 0.0, 2.0, 7.0]), "total": total})
    learner.strategy.begin_task(learner.model, Task(1, "second", (2, 3)), preview)
    assert [len(task_tensors(learner, index)["keys"]) for index in range(2)] == [8, number]
    assert torch.equal(learner.strategy.state["sums"]["count"], torch.tensor([3.0, 5.0, 2.0, 7.0]))


def test_convprompt_pays_for_what_its_shared_tensors_moved(nouns, tiny_bert):
    learner, data = after(1, "convprompt", nouns, tiny_bert, **small("convprompt", anchoring=0.3))
    step = learner.strategy.step(learner.model, data, NO_REPLAY)
    plain = F.cross_entropy(predict(learner, data)[:, 2:4], data.labels - 2)
    torch.testing.assert_close(step.loss, plain, atol=1e-5, rtol=1e-4)
    shared = learner.model.adapters["shared"].tensors
    with torch.no_grad():
        for tensor in shared.values():
            tensor += 0.01
    count = sum(tensor.numel() for tensor in shared.values())
    plain = F.cross_entropy(predict(learner, data)[:, 2:4], data.labels - 2)
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    torch.testing.assert_close(loss, plain + 0.3 * 0.01 * count, atol=1e-3, rtol=1e-4)


def test_convprompt_anchoring_holds_what_is_shared_and_old_kernels_never_move(nouns, tiny_bert):
    def moved(weight):
        settings = small("convprompt", anchoring=weight)
        learner, data = after(1, "convprompt", nouns, tiny_bert, **settings)
        before = {k: v.clone() for k, v in task_tensors(learner, 0).items()}
        learned(learner, data)
        assert all(torch.equal(before[k], v) for k, v in task_tensors(learner, 0).items())
        keys = torch.cat([task_tensors(learner, i)["keys"] for i in range(2)])
        assert keys.shape[1] == 8
        return learner.strategy.step(learner.model, data, NO_REPLAY).metrics["moved"]

    assert moved(10.0) < 0.8 * moved(0.0)


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("cprompt", {"length": 0}, "strategy.length"),
        ("cprompt", {"smoothing": 0.0}, "strategy.smoothing"),
        ("convprompt", {"kernel": 0}, "strategy.kernel"),
        ("convprompt", {"max_kernels": 9}, "strategy.max_kernels"),
        ("convprompt", {"anchoring": -1.0}, "strategy.anchoring"),
        ("vq_prompt", {"length": 7}, "strategy.length"),
        ("vq_prompt", {"temperature": 0.0}, "strategy.temperature"),
        ("ovor", {"e_length": 3}, "strategy.e_length"),
        ("ovor", {"neighbours": 0}, "strategy.neighbours"),
        ("pgp", {"top_k": 11}, "strategy.top_k"),
        ("pgp", {"keys": 1.5}, "strategy.keys"),
        ("mocl", {"scale": -1.0}, "strategy.scale"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_key(name, settings, key, nouns, tiny_bert):
    with pytest.raises(ValueError, match=key):
        make_learner(name, nouns, tiny_bert, **settings)
