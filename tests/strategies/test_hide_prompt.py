"""HiDe-Prompt: its losses, state and answers against naive versions."""

import torch
import torch.nn.functional as F

from lamina.adapters.model import HEAD
from lamina.backbones.overlay import Overlay
from lamina.core import Batch, generator_of
from lamina.memory.gaussian import Gaussians
from lamina.strategies import hide_prompt
from nouns import NO_REPLAY, after, make_learner
from prompt_cases import HARDER, head_of, task_of


def naive_hide_features(learner, inputs, prompt):
    prefixes = {0: [(prompt[0, 0], prompt[0, 1])]}
    return learner.model.backbone(inputs, Overlay(prefixes=prefixes)).features


def test_hide_prompt_first_trains_the_task_head_then_prompt_and_head(nouns, tiny_bert):
    learner, data = after(1, "hide_prompt", nouns, tiny_bert)
    model, strategy = learner.model, learner.strategy
    strategy.begin_phase(model, data.task, 0)
    assert {each.split(".")[0] for each in model.parameters()} == {hide_prompt.TII_HEAD}
    logits = head_of(model, tiny_bert(data.inputs).features, hide_prompt.TII_HEAD)
    naive = F.cross_entropy(logits[:, 2:4], data.labels - 2)
    torch.testing.assert_close(strategy.step(model, data, NO_REPLAY).loss, naive)
    strategy.begin_phase(model, data.task, 1)
    assert {each.split(".")[0] for each in model.parameters()} == {hide_prompt.PROMPT, HEAD}
    assert {each: strategy.rate(each) for each in model.parameters()} == {
        "prompt.prompt": 1.0,
        "head.weight": 0.1,
        "head.bias": 0.1,
    }


def test_hide_prompt_contrasts_features_with_each_other_and_old_means(nouns, tiny_bert):
    settings = {"contrast": 0.4, "momentum": 0.25}
    learner, data = after(2, "hide_prompt", nouns, tiny_bert, **settings)
    model, strategy = learner.model, learner.strategy
    strategy.begin_phase(model, data.task, 1)
    past = model.adapters[hide_prompt.PAST].tensors["prompts"]
    current = model.adapters[hide_prompt.PROMPT].tensors["prompt"]
    assert torch.equal(current, past[1])
    features = naive_hide_features(
        learner, data.inputs, 0.75 * current + 0.125 * (past[0] + past[1])
    )
    means = []
    for task, each in enumerate(nouns.experiences[:2]):
        own = naive_hide_features(learner, each.train.inputs, past[task])
        means += [own[each.train.labels == c].mean(0) for c in each.task.classes]
    rows = [*means, *features]
    contrast = 0.0
    for i, row in enumerate(rows):
        similarity = torch.stack([row @ other / 0.8 for other in rows])
        contrast -= (similarity[i] - similarity.logsumexp(0)) / len(rows)
    plain = F.cross_entropy(head_of(model, features)[:, 4:6], data.labels - 4)
    loss = strategy.step(model, data, NO_REPLAY).loss
    torch.testing.assert_close(loss, plain + 0.4 * contrast, atol=1e-4, rtol=1e-4)


def test_hide_prompt_contrast_spreads_features(nouns, tiny_bert):
    def contrast(weight):
        settings = {"contrast": weight, "training": HARDER}
        learner, data = after(0, "hide_prompt", nouns, tiny_bert, **settings)
        learner.descend(task_of(learner), data)
        return learner.strategy.step(learner.model, data, NO_REPLAY).metrics["contrast"]

    assert contrast(30.0) < 0.99 * contrast(0.0)


def test_hide_prompt_keeps_the_leaning_prompt_and_both_gaussians(nouns, tiny_bert):
    learner = make_learner("hide_prompt", nouns, tiny_bert, momentum=0.5)
    reports = learner.learn()
    next(reports)
    next(reports)
    model, state = learner.model, learner.strategy.state
    past = model.adapters[hide_prompt.PAST].tensors["prompts"]
    trained = model.adapters[hide_prompt.PROMPT].tensors["prompt"]
    torch.testing.assert_close(past[1], 0.5 * trained + 0.5 * past[0])
    for task, each in enumerate(nouns.experiences[:2]):
        instructed = naive_hide_features(learner, each.train.inputs, past[task])
        for head, features in (
            (hide_prompt.TII_HEAD, tiny_bert(each.train.inputs).features),
            (HEAD, instructed),
        ):
            for c in each.task.classes:
                own = features[each.train.labels == c].detach()
                torch.testing.assert_close(
                    state[head]["mean"][c], own.mean(0), atol=1e-5, rtol=1e-4
                )
                covariance = state[head]["covariance"][c]
                torch.testing.assert_close(covariance, torch.cov(own.T), atol=1e-4, rtol=1e-3)


def test_hide_prompt_routes_by_the_class_that_the_task_head_finds(nouns, tiny_bert):
    learner = make_learner("hide_prompt", nouns, tiny_bert, training=HARDER, refit_epochs=10)
    list(learner.learn())
    model, strategy = learner.model, learner.strategy
    inputs = Batch.cat([each.test for each in nouns.experiences]).inputs
    classes = head_of(model, tiny_bert(inputs).features, hide_prompt.TII_HEAD).argmax(1)
    assert strategy.route(model, inputs).tolist() == [int(c) // 2 for c in classes]
    past = model.adapters[hide_prompt.PAST].tensors["prompts"]
    each = [head_of(model, naive_hide_features(learner, inputs, prompt)) for prompt in past]
    expected = torch.stack([each[int(c) // 2][n] for n, c in enumerate(classes)])
    torch.testing.assert_close(
        strategy.predict(model, inputs, None), expected, atol=1e-5, rtol=1e-4
    )
    told = strategy.predict(model, inputs, nouns.experiences[0].task)
    torch.testing.assert_close(told, each[0], atol=1e-5, rtol=1e-4)


def test_hide_prompt_refit_balances_the_classes_of_all_tasks(nouns, tiny_bert):
    def loss_on_all_gaussians(epochs):
        settings = {"refit_epochs": epochs, "refit_rate": 0.05}
        learner = make_learner("hide_prompt", nouns, tiny_bert, **settings)
        list(learner.learn())
        gaussians = Gaussians(**learner.strategy.state[hide_prompt.TII_HEAD])
        features, labels = gaussians.sample(50, generator_of(1, "test"))
        return F.cross_entropy(head_of(learner.model, features, hide_prompt.TII_HEAD), labels)

    assert loss_on_all_gaussians(20) < 0.8 * loss_on_all_gaussians(0)
