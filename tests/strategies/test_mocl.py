"""MoCL: its losses, state and answers against naive versions."""

import pytest
import torch
import torch.nn.functional as F

from lamina.adapters.merging import composed
from lamina.backbones.overlay import Overlay
from lamina.core import Task, generator_of
from nouns import NO_REPLAY, after
from recent_prompt_cases import learned, predict


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
