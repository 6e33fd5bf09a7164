"""CPrompt: its losses, state and answers against naive versions."""

from dataclasses import replace

import torch
import torch.nn.functional as F

from lamina.backbones.overlay import Overlay
from lamina.core import generator_of
from lamina.strategies.cprompt import self_distillation
from nouns import NO_REPLAY, after, make_learner
from recent_prompt_cases import learned, predict, small, task_tensors


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
