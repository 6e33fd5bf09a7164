"""MOS: its losses, state and answers against naive versions."""

import pytest
import torch
import torch.nn.functional as F

from lamina.adapters.model import HEAD
from nouns import NO_REPLAY, after, logits_of
from prototype_cases import answers, every_train, features_of, learned


def test_mos_head_learns_at_its_share_of_the_adapters_rate(nouns, tiny_bert):
    learner, _ = after(1, "mos", nouns, tiny_bert, head_rate=0.1)
    optimizer = learner.new_stepper(1).optimizer
    rates = {id(t): group["lr"] for group in optimizer.param_groups for t in group["params"]}
    for name, tensor in learner.model.parameters().items():
        assert rates[id(tensor)] == pytest.approx(1e-3 if name.startswith("head") else 1e-2)


def test_mos_starts_an_adapter_from_the_last_and_pulls_it_to_the_mean(nouns, tiny_bert):
    learner, _ = after(2, "mos", nouns, tiny_bert, merging=0.25)
    model = learner.model
    first, last, current = (model.adapters[f"task_{index}"] for index in range(3))
    assert model.active == ["task_2"]
    assert {name.split(".")[0] for name in model.parameters()} == {"task_2", HEAD}
    name = next(name for name in current.tensors if "lora_B" in name)
    assert torch.equal(current.tensors[name], last.tensors[name])
    assert current.tensors[name].data_ptr() != last.tensors[name].data_ptr()
    with torch.no_grad():
        current.tensors[name] += 1.0
    before = current.tensors[name].detach().clone()
    learner.strategy.after_step(model, None)
    mean = (first.tensors[name] + last.tensors[name]) / 2
    torch.testing.assert_close(current.tensors[name].detach(), 0.75 * before + 0.25 * mean)


def test_mos_merging_of_one_keeps_the_first_adapter_and_none_lets_go(nouns, tiny_bert):
    def distance(merging):
        learner = learned("mos", nouns, tiny_bert, merging=merging)
        tensors = [learner.model.adapters[f"task_{index}"].tensors for index in range(3)]
        return sum((tensors[2][k] - tensors[0][k]).abs().sum().item() for k in tensors[0])

    assert distance(1.0) == pytest.approx(0.0, abs=1e-3)
    assert distance(0.0) > distance(0.5) > 0.01


def test_mos_pays_for_the_contrast_of_features_with_means_and_each_other(nouns, tiny_bert):
    learner, data = after(1, "mos", nouns, tiny_bert, contrast=0.6)
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    own = F.cross_entropy(logits_of(learner, data)[:, 2:4], data.labels - 2)
    means = learner.strategy.state["gaussians"]["mean"]
    vectors = [*means, *features_of(learner, data)]
    losses = []
    for i, v in enumerate(vectors):
        similarity = torch.stack([v @ w / 0.8 for w in vectors])
        losses.append(similarity.logsumexp(0) - similarity[i])
    naive = own + 0.6 * torch.stack(losses).mean()
    torch.testing.assert_close(loss, naive, atol=1e-4, rtol=1e-4)


def retrieved_by_hand(learner, one, means):
    """The authors' loop for one row, from the paper's algorithm."""
    model, task_of = learner.model, learner.strategy.state["task_of"]
    first = features_of(learner, one, ["task_0"])[0]
    cosines = torch.stack([F.cosine_similarity(first, mean, dim=0) for mean in means])
    adapter = task_of[int(cosines.argmax())]
    for _ in range(4):
        logits = model.logits(features_of(learner, one, [f"task_{adapter}"]))[0]
        wanted = task_of[int(logits.argmax())]
        if wanted == adapter:
            return adapter, logits, cosines
        used, adapter = adapter, wanted
    return used, logits, cosines


def test_mos_refines_the_adapter_of_each_input_and_adds_both_answers(nouns, tiny_bert):
    learner = learned("mos", nouns, tiny_bert)
    data = every_train(nouns)
    first = features_of(learner, data, ["task_0"])
    means = [first[data.labels == c].mean(0) for c in range(6)]
    routes = learner.strategy.route(learner.model, data.inputs)
    naive = [retrieved_by_hand(learner, one, means) for one in data.chunks(1)]
    assert routes.tolist() == [adapter for adapter, _, _ in naive]
    expected = torch.stack(
        [logits.softmax(0) + (3 * cosines).softmax(0) for _, logits, cosines in naive]
    )
    torch.testing.assert_close(answers(learner, data), expected, atol=1e-4, rtol=1e-4)


def test_mos_uses_the_adapter_of_a_task_that_it_is_told(nouns, tiny_bert):
    learner = learned("mos", nouns, tiny_bert)
    each = nouns.experiences[1]
    told = learner.strategy.predict(learner.model, each.test.inputs, each.task)
    naive = learner.model(each.test.inputs, ["task_1"]).logits
    assert torch.equal(told, naive)


def test_mos_refit_moves_the_head_and_no_pass_leaves_it(nouns, tiny_bert):
    def head(epochs):
        learner, data = after(1, "mos", nouns, tiny_bert, epochs=epochs, samples=8)
        before = learner.model.adapters[HEAD].tensors["weight"].detach().clone()
        review = learner.summarise(learner.strategy.review, data)
        learner.strategy.end_task(learner.model, nouns.experiences[1].task, review)
        return (learner.model.adapters[HEAD].tensors["weight"] - before).abs().max()

    assert head(0) == 0
    assert head(5) > 1e-3
