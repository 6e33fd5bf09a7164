"""Strategies that merge: what they train from, what they merge, what answers."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lamina.adapters.kinds.lora import modules_of
from lamina.adapters.merging import as_lora, trim
from lamina.adapters.model import HEAD, MAIN
from lamina.core import Batch, generator_of
from lamina.memory.memory import Replay
from lamina.strategies.adaptive_merging import MERGE
from lamina.strategies.task_arithmetic import MERGED, ORIGIN
from lamina.training.settings import TrainingSettings
from nouns import NO_REPLAY, after, logits_of, make_learner

FROM_THE_START = ["task_arithmetic", "ties", "dare"]
EVERY = [*FROM_THE_START, "magmax"]


def trained_vectors(name, nouns, backbone, **settings):
    """A learner after all tasks, and per task what MAIN was then minus what it was at first."""
    learner = make_learner(name, nouns, backbone, **settings)
    origin = {k: v.clone() for k, v in learner.model.adapters[ORIGIN].tensors.items()}
    vectors = []
    for _ in learner.learn():
        main = learner.model.adapters[MAIN].tensors
        vectors.append({k: main[k].detach() - origin[k] for k in origin})
    return learner, origin, vectors


def merged_of(learner):
    assert learner.model.active == [MERGED]
    return learner.model.adapters[MERGED].tensors


@pytest.mark.parametrize("name", EVERY)
def test_the_loss_is_the_tasks_own_cross_entropy_under_what_is_trained(name, nouns, tiny_bert):
    learner, data = after(1, name, nouns, tiny_bert)
    model = learner.model
    assert model.active == [MAIN]
    assert {each.split(".")[0] for each in model.parameters()} == {MAIN, HEAD}
    loss = learner.strategy.step(model, data, NO_REPLAY).loss
    naive = F.cross_entropy(logits_of(learner, data)[:, 2:4], data.labels - 2)
    torch.testing.assert_close(loss, naive)


@pytest.mark.parametrize("name", EVERY)
def test_head_rows_of_earlier_tasks_stay_as_they_were_trained(name, nouns, tiny_bert):
    learner = make_learner(name, nouns, tiny_bert)
    reports = learner.learn()
    next(reports)
    before = learner.model.adapters[HEAD].tensors["weight"].detach().clone()
    list(reports)
    assert torch.equal(learner.model.adapters[HEAD].tensors["weight"][:2], before)


@pytest.mark.parametrize("name", FROM_THE_START)
def test_every_task_starts_from_the_same_adapter(name, nouns, tiny_bert):
    learner, _ = after(2, name, nouns, tiny_bert)
    main, origin = (learner.model.adapters[each].tensors for each in (MAIN, ORIGIN))
    assert all(torch.equal(main[key], origin[key]) for key in origin)
    assert learner.model.adapters[MAIN].trainable
    assert not learner.model.adapters[ORIGIN].trainable


def test_magmax_goes_on_from_the_last_task(nouns, tiny_bert):
    learner = make_learner("magmax", nouns, tiny_bert)
    next(learner.learn())
    main = {k: v.clone() for k, v in learner.model.adapters[MAIN].tensors.items()}
    again, _ = after(1, "magmax", nouns, tiny_bert)
    assert all(torch.equal(main[k], again.model.adapters[MAIN].tensors[k]) for k in main)


def test_task_arithmetic_of_loras_is_the_weighted_sum_of_their_products(nouns, tiny_bert):
    learner, origin, vectors = trained_vectors("task_arithmetic", nouns, tiny_bert, weight=0.3)
    merged = merged_of(learner)
    for module in modules_of(origin):
        a, b = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
        naive = sum(0.3 * (each[b] + origin[b]) @ (each[a] + origin[a]) for each in vectors)
        torch.testing.assert_close(merged[b] @ merged[a], naive, atol=1e-6, rtol=1e-4)
        assert merged[a].shape[0] == 3 * 8


def test_task_arithmetic_of_other_kinds_is_the_weighted_sum_of_vectors(nouns, tiny_bert):
    learner, origin, vectors = trained_vectors(
        "task_arithmetic", nouns, tiny_bert, weight=0.3, adapter="bottleneck"
    )
    for name, tensor in merged_of(learner).items():
        naive = origin[name] + 0.3 * sum(each[name] for each in vectors)
        torch.testing.assert_close(tensor, naive, atol=1e-6, rtol=1e-5)


def test_ties_elects_signs_over_the_trimmed_vectors_of_all_tasks(nouns, tiny_bert):
    learner, origin, vectors = trained_vectors("ties", nouns, tiny_bert, density=0.3, weight=0.8)
    trimmed = [trim(each, 0.3) for each in vectors]
    for name, tensor in merged_of(learner).items():
        stacked = torch.stack([each[name] for each in trimmed])
        sign = torch.where(stacked.sum(0) < 0, -1.0, 1.0)
        same = (stacked * sign > 0).float()
        mean = (stacked * same).sum(0) / same.sum(0).clamp(min=1)
        torch.testing.assert_close(tensor, origin[name] + 0.8 * mean, atol=1e-6, rtol=1e-5)


def test_dare_of_loras_drops_entries_of_their_products(nouns, tiny_bert):
    learner, origin, vectors = trained_vectors("dare", nouns, tiny_bert, drop_rate=0.6, weight=0.5)
    modules = modules_of(origin)
    naive = {module: 0.0 for module in modules}
    for task, vector in enumerate(vectors):
        generator = generator_of(0, "dare", task)
        for module in modules:
            a, b = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
            update = (vector[b] + origin[b]) @ (vector[a] + origin[a])
            mask = torch.bernoulli(torch.full(update.shape, 0.4), generator=generator)
            naive[module] += 0.5 * mask * update / 0.4
    merged = merged_of(learner)
    for module in modules:
        update = merged[f"{module}.lora_B.weight"] @ merged[f"{module}.lora_A.weight"]
        torch.testing.assert_close(update, naive[module], atol=1e-6, rtol=1e-4)


def test_dare_of_loras_that_drops_nothing_is_task_arithmetic(nouns, tiny_bert):
    dare, origin, _ = trained_vectors("dare", nouns, tiny_bert, drop_rate=0.0, weight=0.3)
    exact, _, _ = trained_vectors("task_arithmetic", nouns, tiny_bert, weight=0.3)
    ours, theirs = merged_of(dare), merged_of(exact)
    for module in modules_of(origin):
        a, b = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
        torch.testing.assert_close(ours[b] @ ours[a], theirs[b] @ theirs[a], atol=1e-6, rtol=1e-4)
    inputs = nouns.experiences[0].test.inputs
    answers = [each.strategy.predict(each.model, inputs, None) for each in (dare, exact)]
    torch.testing.assert_close(*answers, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sides", [(3, 5), (5, 3), (4, 4)])
def test_a_full_update_is_a_lora_of_the_smaller_side(sides):
    update = torch.randn(sides, generator=generator_of(0, "update"))
    lora = as_lora({"m": update})
    assert lora["m.lora_A.weight"].shape[0] == min(sides)
    assert torch.equal(lora["m.lora_B.weight"] @ lora["m.lora_A.weight"], update)


def test_dare_drops_by_the_tasks_named_seed_and_sums(nouns, tiny_bert):
    learner, origin, vectors = trained_vectors(
        "dare", nouns, tiny_bert, drop_rate=0.6, weight=0.5, adapter="bottleneck"
    )
    naive = {name: tensor.clone() for name, tensor in origin.items()}
    for task, vector in enumerate(vectors):
        generator = generator_of(0, "dare", task)
        for name, tensor in vector.items():
            mask = torch.bernoulli(torch.full(tensor.shape, 0.4), generator=generator)
            naive[name] += 0.5 * mask * tensor / 0.4
    for name, tensor in merged_of(learner).items():
        torch.testing.assert_close(tensor, naive[name], atol=1e-5, rtol=1e-4)


def test_dare_that_drops_nothing_sums_the_vectors_and_more_dropping_moves_it(nouns, tiny_bert):
    kind = {"adapter": "bottleneck", "weight": 0.5}
    learner, origin, vectors = trained_vectors("dare", nouns, tiny_bert, drop_rate=0.0, **kind)
    other, _, _ = trained_vectors("dare", nouns, tiny_bert, drop_rate=0.5, **kind)
    for name, tensor in merged_of(learner).items():
        naive = origin[name] + 0.5 * sum(each[name] for each in vectors)
        torch.testing.assert_close(tensor, naive, atol=1e-6, rtol=1e-5)
        assert (merged_of(other)[name] - tensor).abs().max() > 1e-3


def test_magmax_keeps_each_entrys_largest_change_since_the_start(nouns, tiny_bert):
    learner, origin, vectors = trained_vectors("magmax", nouns, tiny_bert, weight=0.7)
    for name, tensor in merged_of(learner).items():
        stacked = torch.stack([each[name] for each in vectors])
        largest = stacked.gather(0, stacked.abs().argmax(0, keepdim=True))[0]
        torch.testing.assert_close(tensor, origin[name] + 0.7 * largest, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_a_weight_of_zero_answers_with_the_frozen_features_and_weight_moves_it(
    name, nouns, tiny_bert
):
    data = nouns.experiences[1].test

    def features(weight):
        learner = make_learner(name, nouns, tiny_bert, weight=weight)
        list(learner.learn())
        return learner.model(data.inputs).features.detach()

    frozen = tiny_bert(data.inputs).features
    torch.testing.assert_close(features(0.0), frozen, atol=1e-6, rtol=0)
    assert (features(1.0) - frozen).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["ties", "magmax"])
def test_one_task_at_full_weight_and_density_answers_as_it_was_trained(name, nouns, tiny_bert):
    settings = {"weight": 1.0, **({"density": 1.0} if name == "ties" else {})}
    learner = make_learner(name, nouns, tiny_bert, **settings)
    next(learner.learn())
    main, merged = (learner.model.adapters[each].tensors for each in (MAIN, MERGED))
    for key in merged:
        torch.testing.assert_close(merged[key], main[key].detach(), atol=1e-7, rtol=0)


@pytest.mark.parametrize("name", [*EVERY, "adaptive_merging"])
def test_domains_of_the_same_classes_are_merged_too(name, nouns, tiny_bert):
    experiences = []
    for each in nouns.experiences:
        task = replace(each.task, classes=(0, 1))
        parts = {
            part: replace(each.part(part), labels=each.part(part).labels % 2, task=task)
            for part in ("train", "validation", "test")
        }
        experiences.append(replace(each, task=task, **parts))
    stream = replace(nouns, scenario="domain_incremental", experiences=tuple(experiences))
    training = TrainingSettings(epochs=6, batch_size=4, learning_rate=2e-2)
    learner = make_learner(name, stream, tiny_bert, training=training)
    list(learner.learn())
    train = Batch.cat([each.train for each in experiences])
    right = logits_of(learner, train).argmax(1) == train.labels
    assert right.float().mean() > 0.6


# adaptive_merging


def in_second_phase(nouns, backbone, **settings):
    learner, data = after(2, "adaptive_merging", nouns, backbone, **settings)
    task = nouns.experiences[2].task
    learner.strategy.begin_phase(learner.model, task, 1)
    return learner, data, task


def test_adaptive_merging_first_trains_the_tasks_lora_then_the_coefficients(nouns, tiny_bert):
    learner, data, task = in_second_phase(nouns, tiny_bert)
    strategy, model = learner.strategy, learner.model
    assert strategy.phases(task) == (1.0, 0.5)
    assert strategy.phases(nouns.experiences[0].task) == (1.0,)
    assert set(model.parameters()) == {"merge.coefficients"}
    assert strategy.rate("merge.coefficients") == 10.0
    assert strategy.rate("head.weight") == 1.0
    strategy.begin_phase(model, task, 0)
    assert {name.split(".")[0] for name in model.parameters()} == {"task_2", HEAD}
    loss = strategy.step(model, data, NO_REPLAY).loss
    naive = F.cross_entropy(model(data.inputs, adapters=["task_2"]).logits[:, 4:], data.labels - 4)
    torch.testing.assert_close(loss, naive)


def test_adaptive_merging_second_loss_counts_every_class_alike_under_the_scaled_loras(
    nouns, tiny_bert
):
    learner, data, _ = in_second_phase(nouns, tiny_bert, replay_size=6)
    model, kind = learner.model, learner.model.kind
    with torch.no_grad():
        generator = generator_of(0, "noise")
        for tensor in model.adapters["task_2"].tensors.values():
            tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
        model.adapters[MERGE].tensors["coefficients"].copy_(torch.tensor([0.2, 0.9, -0.4]))
    replay = Replay(learner.memory, learner._rows, 7, "cpu")
    loss = learner.strategy.step(model, data, replay).loss
    exemplars = replay.draw(6)
    assert int(exemplars.labels.max()) < 4
    dense = {}
    for weight, lora in zip((0.2, 0.9, -0.4), ("task_0", "task_1", "task_2"), strict=True):
        tensors = model.adapters[lora].tensors
        for module in modules_of(tensors):
            product = tensors[f"{module}.lora_B.weight"] @ tensors[f"{module}.lora_A.weight"]
            dense[module] = dense.get(module, 0.0) + weight * product.detach()
    identity = {f"{module}.lora_A.weight": torch.eye(32) for module in dense}
    full = {**identity, **{f"{module}.lora_B.weight": each for module, each in dense.items()}}

    def naive(part):
        features = tiny_bert(part.inputs, kind.overlay(full, tiny_bert)).features
        return F.cross_entropy(model.logits(features), part.labels)

    expected = 2 / 6 * naive(data) + 4 / 6 * naive(exemplars)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)


def test_adaptive_merging_answers_with_the_merge_of_its_coefficients(nouns, tiny_bert):
    learner = make_learner("adaptive_merging", nouns, tiny_bert)
    list(learner.learn())
    model, data = learner.model, nouns.experiences[1].test
    coefficients = model.adapters[MERGE].tensors["coefficients"]
    assert coefficients.shape == (3,)
    assert (coefficients - 1 / 3).abs().max() > 0.01
    assert model.active == [MERGED]
    merged = model(data.inputs).logits
    loras = ["task_0", "task_1", "task_2"]
    by_overlay = model(
        data.inputs,
        adapters=loras,
        parameters={
            f"{lora}.{key}": coefficients[index] * tensor
            for index, lora in enumerate(loras)
            for key, tensor in model.adapters[lora].tensors.items()
            if "lora_B" in key
        },
    ).logits
    torch.testing.assert_close(merged, by_overlay, atol=1e-5, rtol=1e-4)


def test_adaptive_merging_second_phase_lowers_the_loss_on_exemplars(nouns, tiny_bert):
    training = TrainingSettings(epochs=3, batch_size=8, learning_rate=1e-2)

    def final(factor):
        learner = make_learner(
            "adaptive_merging", nouns, tiny_bert, training=training, rate_factor=factor
        )
        list(learner.learn())
        kept = learner._rows(learner.memory.ids)
        return float(F.cross_entropy(logits_of(learner, kept), kept.labels))

    assert final(20.0) < final(1e-6)


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("task_arithmetic", {"weight": -1.0}, "strategy.weight"),
        ("ties", {"density": 0.0}, "strategy.density"),
        ("ties", {"weight": -0.1}, "strategy.weight"),
        ("dare", {"drop_rate": 1.0}, "strategy.drop_rate"),
        ("magmax", {"weight": -0.5}, "strategy.weight"),
        ("adaptive_merging", {"share": 0.0}, "strategy.share"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_key(name, settings, key, nouns, tiny_bert):
    with pytest.raises(ValueError, match=key):
        make_learner(name, nouns, tiny_bert, **settings)
