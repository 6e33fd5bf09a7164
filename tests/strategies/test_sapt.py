"""SAPT: its attention, loss and answers against naive versions."""

import pytest
import torch
import torch.nn.functional as F

from lamina.adapters.queries import queries
from lamina.backbones.overlay import Overlay
from lamina.memory.memory import Replay
from lamina.training.settings import TrainingSettings
from lora_cases import shaken
from nouns import after, make_learner
from recent_prompt_cases import predict


def naive_attention(learner, inputs, number):
    """softmax of q(x) k_i / sqrt(d), row by row and key by key."""
    model = learner.model
    tensors = model.adapters["query"].tensors
    rows = []
    for query in queries(model, inputs):
        inner = tensors["up"] @ (tensors["down"] @ query)
        inner = inner * torch.sigmoid(inner)
        centred = inner - inner.mean()
        query = centred / (centred.square().mean() + 1e-5).sqrt()
        query = query * tensors["norm.weight"] + tensors["norm.bias"]
        keys = [model.adapters[f"key_{index}"].tensors["key"] for index in range(number)]
        scores = torch.stack([query @ key for key in keys]) / len(query) ** 0.5
        rows.append(scores.exp() / scores.exp().sum())
    return torch.stack(rows)


def test_sapt_answers_under_the_sum_of_all_loras_by_their_attention(nouns, tiny_bert):
    learner, data = after(2, "sapt", nouns, tiny_bert)
    shaken(learner)
    model = learner.model
    attention = naive_attention(learner, data.inputs, 3)
    rows = []
    for row, one in enumerate(data.chunks(1)):
        overlay = Overlay()
        for index in range(3):
            tensors = {
                name: attention[row, index] * tensor if "lora_B" in name else tensor
                for name, tensor in model.adapters[f"task_{index}"].tensors.items()
            }
            overlay = overlay | model.kind.overlay(tensors, tiny_bert)
        rows.append(model.under(one.inputs, overlay).logits)
    torch.testing.assert_close(predict(learner, data), torch.cat(rows), atol=1e-4, rtol=1e-4)
    assert torch.equal(learner.strategy.route(model, data.inputs), attention.argmax(dim=1))


def test_reflection_holds_exemplars_to_the_mean_attention_of_their_task(nouns, tiny_bert):
    learner, data = after(2, "sapt", nouns, tiny_bert, reflection=3.0, replay_size=6)
    shaken(learner)
    replay = Replay(learner.memory, learner.rows, 3, "cpu")
    exemplars = replay.draw(6)
    means = learner.strategy.state["means"]
    assert [len(mean) for mean in means] == [1, 2]
    found = naive_attention(learner, exemplars.inputs, 3).detach()
    divergences = []
    for row, task in enumerate(exemplars.extras["task"].tolist()):
        pairs = zip(means[task], found[row], strict=False)
        divergences.append(sum(float(m * (m / a).log()) for m, a in pairs if m > 0))
    logits = predict(learner, data)
    plain = F.cross_entropy(logits[:, 4:6], data.labels - 4)
    loss = learner.strategy.step(learner.model, data, replay).loss
    wanted = plain + 3.0 * 2 * sum(divergences) / len(divergences)
    torch.testing.assert_close(loss, wanted, atol=1e-4, rtol=1e-4)


def test_sapt_remembers_the_mean_attention_and_trains_the_newest_alone(nouns, tiny_bert):
    learner, _ = after(1, "sapt", nouns, tiny_bert)
    groups = {name.split(".")[0] for name in learner.model.parameters()}
    assert groups == {"head", "query", "task_1", "key_1"}
    learner = make_learner("sapt", nouns, tiny_bert)
    reports = learner.learn()
    next(reports)
    next(reports)
    expected = naive_attention(learner, nouns.experiences[1].train.inputs, 2).mean(dim=0)
    torch.testing.assert_close(learner.strategy.state["means"][1], expected, atol=1e-5, rtol=1e-4)


def test_reflection_keeps_the_attention_of_earlier_tasks(nouns, tiny_bert):
    def drift(reflection):
        learner = make_learner("sapt", nouns, tiny_bert, reflection=reflection)
        list(learner.learn())
        means = learner.strategy.state["means"]
        apart = 0.0
        for task in (0, 1):
            rows = nouns.experiences[task].train.inputs
            now = naive_attention(learner, rows, 3).detach().mean(dim=0)
            apart += float((now - F.pad(means[task], (0, 2 - task))).abs().sum())
        return apart

    assert drift(20.0) < 0.9 * drift(0.0)


@pytest.mark.parametrize("share", [1.0, 0.1])
def test_the_attention_learns_at_its_share_of_the_rate(nouns, tiny_bert, share):
    """The first step of AdamW is of the size of the rate, whatever the gradient."""
    training = TrainingSettings(
        epochs=1, batch_size=64, optimizer="adamw", learning_rate=1e-2, weight_decay=0.0
    )
    learner = make_learner("sapt", nouns, tiny_bert, training=training, attention_rate=share)
    reports = learner.learn()
    next(reports)
    before = {name: tensor.detach().clone() for name, tensor in learner.model.parameters().items()}
    next(reports)
    after = learner.model.parameters()

    def moved(name):
        return float((after[name] - before[name]).detach().abs().max())

    assert moved("query.up") == pytest.approx(share * 1e-2, rel=0.05)
    assert learner.strategy.rate("task_1.layer.lora_A.weight") == 1.0


def test_an_attention_as_fast_as_the_loras_ends_at_an_earlier_task(nouns, tiny_bert):
    def shares(rate):
        training = TrainingSettings(epochs=12, batch_size=2, optimizer="adamw", learning_rate=5e-2)
        asked = {"attention_rate": rate, "reflection": 4.0}
        learner = make_learner("sapt", nouns, tiny_bert, training=training, **asked)
        reports = learner.learn()
        next(reports)
        next(reports)
        return naive_attention(learner, nouns.experiences[1].test.inputs, 2).detach()[:, 1]

    assert float(shares(1.0).mean()) < 0.5 * float(shares(0.02).mean())


def test_a_setting_out_of_range_is_refused_by_its_key(nouns, tiny_bert):
    with pytest.raises(ValueError, match=r"strategy\.reflection"):
        make_learner("sapt", nouns, tiny_bert, reflection=-1.0)
