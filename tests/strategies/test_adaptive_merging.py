"""Adaptive LoRA merging: its losses, state and answers against naive versions."""

import torch
import torch.nn.functional as F

from lamina.adapters.kinds.lora import modules_of
from lamina.adapters.model import HEAD
from lamina.core import generator_of
from lamina.memory.memory import Replay
from lamina.strategies.adaptive_merging import MERGE
from lamina.strategies.task_arithmetic import MERGED
from lamina.training.settings import TrainingSettings
from nouns import NO_REPLAY, after, as_scenario, logits_of, make_learner


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
    replay = Replay(learner.memory, learner.rows, 7, "cpu")
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


def test_adaptive_merging_second_loss_counts_every_domain_alike(nouns, tiny_bert):
    domains = as_scenario(nouns, "domain_incremental")
    learner, data, _ = in_second_phase(domains, tiny_bert, replay_size=6)
    model = learner.model
    replay = Replay(learner.memory, learner.rows, 7, "cpu")
    loss = learner.strategy.step(model, data, replay).loss
    new, past = (
        F.cross_entropy(learner.strategy.merged_logits(model, each), each.labels)
        for each in (data, replay.draw(6))
    )
    assert (new - past).abs() > 1e-3
    torch.testing.assert_close(loss, new / 3 + 2 * past / 3)


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
        kept = learner.rows(learner.memory.ids)
        return float(F.cross_entropy(logits_of(learner, kept), kept.labels))

    assert final(20.0) < final(1e-6)
