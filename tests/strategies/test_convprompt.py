"""ConvPrompt: its losses, state and answers against naive versions."""

import pytest
import torch
import torch.nn.functional as F

from lamina.backbones.overlay import Overlay
from lamina.core import Summary, Task, generator_of
from lamina.strategies.convprompt import convolved
from nouns import NO_REPLAY, after
from recent_prompt_cases import learned, predict, small, task_tensors


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
