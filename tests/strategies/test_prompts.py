"""Prompt methods, each against a naive version written from its paper's equations."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import nn

from lamina.adapters.alignment import refit_head
from lamina.adapters.model import HEAD, AdaptedModel
from lamina.adapters.prompting import layers_in, orthonormal
from lamina.backbones.overlay import Overlay
from lamina.core import Batch, Summary, generator_of
from lamina.memory.gaussian import Gaussians, moments
from lamina.strategies import coda_prompt, hide_prompt, progressive_prompts
from lamina.strategies.dualprompt import EXPERT, GENERAL
from lamina.training.settings import TrainingSettings
from nouns import NO_REPLAY, after, make_learner

PROMPT_METHODS = ["l2p", "dualprompt", "coda_prompt", "s_prompts", "hide_prompt", "epi"]
HARDER = TrainingSettings(epochs=5, batch_size=5, learning_rate=3e-2)


def task_of(learner):
    """The task that has begun."""
    return learner.stream.experiences[learner.next_task].task


def head_of(model, features, name=HEAD):
    """Logits as nn.Linear gives them."""
    tensors = model.adapters[name].tensors
    return F.linear(features, tensors["weight"], tensors["bias"])


def snapshot(model, *names):
    """Copies of what adapters hold."""
    return {
        (name, key): value.detach().clone()
        for name in names
        for key, value in model.adapters[name].tensors.items()
    }


def unchanged(model, before):
    """Whether adapters hold bit for bit what they held."""
    return all(torch.equal(model.adapters[n].tensors[k], v) for (n, k), v in before.items())


def answers(learner, stream, task=None):
    """Predictions on the test rows of the first two tasks."""
    inputs = Batch.cat([each.test for each in stream.experiences[:2]]).inputs
    with torch.no_grad():
        return learner.strategy.predict(learner.model, inputs, task)


# all


@pytest.mark.parametrize("name", PROMPT_METHODS)
def test_it_runs_on_a_vision_transformer_and_every_trained_tensor_learns(name, shapes, tiny_vit):
    learner, data = after(1, name, shapes, tiny_vit, adapter="prompt")
    model, strategy = learner.model, learner.strategy
    if name == "hide_prompt":
        strategy.begin_phase(model, data.task, 1)
    loss = strategy.step(model, data, NO_REPLAY).loss
    gradients = torch.autograd.grad(loss, list(model.parameters().values()))
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    learner.descend(data.task, data)
    learner.strategy.end_task(model, data.task, learner.summarise(strategy.review, data))
    pixels = shapes.experiences[0].test.inputs["pixel_values"]
    with torch.no_grad():
        together = strategy.predict(model, {"pixel_values": pixels}, None)
        alone = strategy.predict(model, {"pixel_values": pixels[:1]}, None)
    assert together.shape == (4, 4)
    torch.testing.assert_close(together[:1], alone, atol=1e-4, rtol=1e-4)
    if strategy.routes:
        routed = strategy.route(model, {"pixel_values": pixels})
        assert routed.dtype == torch.int64
        assert set(routed.tolist()) <= {0, 1}


@pytest.mark.parametrize(
    ("depth", "general", "expert", "five"),
    [(2, [0], [0], [0]), (6, [0], [1, 2], [0, 1, 2]), (12, [0, 1], [2, 3, 4], [0, 1, 2, 3, 4])],
)
def test_layers_take_the_papers_place_in_any_depth(
    depth, general, expert, five, tiny_bert, monkeypatch
):
    architecture = replace(tiny_bert.architecture, attentions=("attention",) * depth)
    monkeypatch.setattr(tiny_bert, "architecture", architecture)
    assert layers_in(tiny_bert, None, range(0, 2), "layers") == general
    assert layers_in(tiny_bert, None, range(2, 5), "layers") == expert
    assert layers_in(tiny_bert, None, range(0, 5), "layers") == five
    assert layers_in(tiny_bert, (-1, 0), range(0, 5), "layers") == [0, depth - 1]


# dualprompt


def naive_dualprompt_logits(learner, inputs, expert):
    model = learner.model
    g, e = model.adapters[GENERAL].tensors["prompt"], expert["prompt"]
    prefixes = {0: [(g[0, 0], g[0, 1])], 1: [(e[0, 0], e[0, 1])]}
    return head_of(model, model.backbone(inputs, Overlay(prefixes=prefixes)).features)


def test_dualprompt_loss_is_cross_entropy_and_the_distance_of_the_tasks_key(nouns, tiny_bert):
    learner, data = after(1, "dualprompt", nouns, tiny_bert, e_layers=(1,), pull=0.7)
    model = learner.model
    expert = model.adapters[EXPERT.format(1)].tensors
    logits = naive_dualprompt_logits(learner, data.inputs, expert)
    query = tiny_bert(data.inputs).features
    distance = sum(1 - F.cosine_similarity(q, expert["key"], dim=0) for q in query) / len(data)
    loss = learner.strategy.step(model, data, NO_REPLAY).loss
    naive = F.cross_entropy(logits[:, 2:4], data.labels - 2) + 0.7 * distance
    torch.testing.assert_close(loss, naive, atol=1e-5, rtol=1e-4)


def test_dualprompt_trains_the_general_prompt_and_the_tasks_own_expert_only(nouns, tiny_bert):
    learner, data = after(1, "dualprompt", nouns, tiny_bert)
    model = learner.model
    first, second = EXPERT.format(0), EXPERT.format(1)
    assert torch.equal(*(model.adapters[each].tensors["prompt"] for each in (first, second)))
    before, moving = snapshot(model, first), snapshot(model, GENERAL, second)
    learner.descend(task_of(learner), data)
    assert unchanged(model, before)
    for name, key in moving:
        assert not torch.equal(model.adapters[name].tensors[key], moving[name, key])


def test_dualprompt_routes_each_row_to_the_nearest_key(nouns, tiny_bert):
    learner = make_learner("dualprompt", nouns, tiny_bert, e_layers=(1,), training=HARDER)
    list(learner.learn())
    model = learner.model
    inputs = Batch.cat([each.test for each in nouns.experiences]).inputs
    experts = [model.adapters[EXPERT.format(t)].tensors for t in range(3)]
    query = tiny_bert(inputs).features
    nearest = [
        max(range(3), key=lambda t: F.cosine_similarity(q, experts[t]["key"], dim=0)) for q in query
    ]
    assert learner.strategy.route(model, inputs).tolist() == nearest
    assert len(set(nearest)) > 1
    each = [naive_dualprompt_logits(learner, inputs, expert) for expert in experts]
    expected = torch.stack([each[t][n] for n, t in enumerate(nearest)])
    got = learner.strategy.predict(model, inputs, None)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    told = learner.strategy.predict(model, inputs, nouns.experiences[2].task)
    torch.testing.assert_close(told, each[2], atol=1e-5, rtol=1e-4)


def test_dualprompt_pull_draws_the_key_and_without_it_the_key_stays(nouns, tiny_bert):
    def keys(pull):
        learner, data = after(0, "dualprompt", nouns, tiny_bert, pull=pull, training=HARDER)
        key = learner.model.adapters[EXPERT.format(0)].tensors["key"]
        before = key.detach().clone()
        learner.descend(task_of(learner), data)
        return before, key.detach(), tiny_bert(data.inputs).features

    before, after_all, query = keys(1.0)
    near = F.cosine_similarity(query, after_all[None]).mean()
    assert near > F.cosine_similarity(query, before[None]).mean() + 0.2
    before, after_all, _ = keys(0.0)
    assert torch.equal(before, after_all)


# coda_prompt


def test_coda_prompt_is_a_sum_of_components_weighted_by_attended_similarity(nouns, tiny_bert):
    learner, data = after(1, "coda_prompt", nouns, tiny_bert, components=3, layers=(0, 1))
    model, strategy = learner.model, learner.strategy
    parts = strategy.all_components(model)
    assert parts["P"].shape == (2, 6, 8, 32)
    query = tiny_bert(data.inputs).features
    naive = torch.zeros(len(data), 2, 8, 32)
    for n, layer, m in np.ndindex(len(data), 2, 6):
        attended = query[n] * parts["A"][layer, m]
        weight = F.cosine_similarity(attended, parts["K"][layer, m], dim=0)
        naive[n, layer] += weight * parts["P"][layer, m]
    torch.testing.assert_close(strategy.prompts(model, query), naive, atol=1e-5, rtol=1e-4)
    prefixes = {layer: [(naive[:, layer, :4], naive[:, layer, 4:])] for layer in (0, 1)}
    logits = head_of(model, tiny_bert(data.inputs, Overlay(prefixes=prefixes)).features)
    got = strategy.predict(model, data.inputs, None)
    torch.testing.assert_close(got, logits, atol=1e-5, rtol=1e-4)


def test_coda_prompt_pays_for_components_that_are_not_orthonormal(nouns, tiny_bert):
    learner, data = after(1, "coda_prompt", nouns, tiny_bert, components=3, orthogonality=0.3)
    model, strategy = learner.model, learner.strategy
    with torch.no_grad():
        for value in model.adapters[coda_prompt.CURRENT].tensors.values():
            value += 0.3
    penalty = 0.0
    for stack in strategy.all_components(model).values():
        for rows in stack.flatten(2):
            penalty += ((rows @ rows.T - torch.eye(6)) ** 2).mean()
    logits = strategy.predict(model, data.inputs, None)
    naive = F.cross_entropy(logits[:, 2:4], data.labels - 2) + 0.3 * penalty
    loss = strategy.step(model, data, NO_REPLAY).loss
    torch.testing.assert_close(loss, naive, atol=1e-5, rtol=1e-4)


def test_coda_prompt_adds_components_orthonormal_to_the_old_which_stay(nouns, tiny_bert):
    learner, data = after(1, "coda_prompt", nouns, tiny_bert, components=3, training=HARDER)
    model = learner.model
    before = snapshot(model, coda_prompt.PAST)
    learner.descend(task_of(learner), data)
    learner.strategy.begin_task(model, replace(task_of(learner), index=2), None)
    for name, value in learner.strategy.all_components(model).items():
        gram = value.flatten(2) @ value.flatten(2).transpose(1, 2)
        torch.testing.assert_close(gram[0, 6:, 6:], torch.eye(3), atol=1e-5, rtol=0)
        assert gram[0, 6:, :6].abs().max() < 1e-5
        assert torch.equal(value[:, :3], before[coda_prompt.PAST, name])


def test_components_that_fill_the_space_are_orthonormal_among_themselves():
    drawn = torch.randn(3, 4, generator=generator_of(0, "drawn"))
    past = torch.eye(4)[:2]
    rows = orthonormal(drawn, past)
    torch.testing.assert_close(rows @ rows.T, torch.eye(3), atol=1e-5, rtol=0)


def test_coda_prompt_weight_keeps_components_orthonormal(nouns, tiny_bert):
    def overlap(weight):
        settings = {"components": 3, "orthogonality": weight, "training": HARDER}
        learner, data = after(1, "coda_prompt", nouns, tiny_bert, **settings)
        learner.descend(task_of(learner), data)
        return learner.strategy.step(learner.model, data, NO_REPLAY).metrics["overlap"]

    assert overlap(10.0) < 0.2 * overlap(0.0)


# s_prompts and epi: isolated modules


@pytest.mark.parametrize("name", ["s_prompts", "epi"])
@pytest.mark.parametrize("adapter", ["prompt", "prefix", "lora", None])
def test_isolated_modules_never_change_after_their_task(name, adapter, nouns, tiny_bert):
    learner = make_learner(name, nouns, tiny_bert)
    if adapter != "lora":
        learner = make_learner(name, nouns, tiny_bert, adapter=adapter)
    reports = learner.learn()
    next(reports)
    first = nouns.experiences[0]
    before = answers(learner, nouns, first.task)
    list(reports)
    told = answers(learner, nouns, first.task)
    assert torch.equal(told[:, :2], before[:, :2])
    assert torch.equal(told[:, 2:], torch.full((8, 4), float("-inf")))
    assert {each.split(".")[0].rsplit("_head")[0][-1] for each in learner.model.parameters()} == {
        "2"
    }


@pytest.mark.parametrize("name", ["s_prompts", "epi"])
def test_isolated_modules_answer_the_rows_that_are_routed_to_them(name, nouns, tiny_bert):
    learner = make_learner(name, nouns, tiny_bert)
    list(learner.learn())
    inputs = Batch.cat([each.test for each in nouns.experiences]).inputs
    model, strategy = learner.model, learner.strategy
    with torch.no_grad():
        routed = strategy.route(model, inputs)
        each = [strategy.predict(model, inputs, e.task) for e in nouns.experiences]
        got = strategy.predict(model, inputs, None)
    assert len(routed.unique()) > 1
    expected = torch.stack([each[task][n] for n, task in enumerate(routed)])
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["s_prompts", "epi"])
def test_isolated_modules_learn_domains_that_share_classes(name, nouns, tiny_bert):
    """Every domain shows classes 0 and 1; what they look like differs."""
    domains = []
    for each in nouns.experiences:
        task = replace(each.task, classes=(0, 1))
        parts = [
            replace(part, labels=part.labels % 2, task=task)
            for part in (each.train, each.validation, each.test)
        ]
        domains.append(type(each)(task, *parts))
    stream = replace(nouns, scenario="domain_incremental", experiences=tuple(domains))
    learner = make_learner(name, stream, tiny_bert)
    reports = list(learner.learn())
    assert None not in reports[0].test
    first, last = (answers(learner, stream, domains[t].task) for t in (0, 2))
    assert first.shape == (8, 2)
    assert (first - last).abs().max() > 1e-3
    naive_head = learner.model.adapters[f"{'domain' if name == 's_prompts' else 'task'}_0_head"]
    assert len(naive_head.tensors["bias"]) == 2


def test_s_prompts_loss_is_cross_entropy_of_the_domains_own_head(nouns, tiny_bert):
    learner, data = after(1, "s_prompts", nouns, tiny_bert, adapter="prompt")
    model = learner.model
    prompt = model.adapters["domain_1"].tensors["prompt_embeddings"]
    features = tiny_bert(data.inputs, Overlay(prompts=[prompt])).features
    naive = F.cross_entropy(head_of(model, features, "domain_1_head"), data.labels - 2)
    torch.testing.assert_close(learner.strategy.step(model, data, NO_REPLAY).loss, naive)


def test_s_prompts_centres_are_a_fixed_point_of_scikit_learns_k_means(nouns, tiny_bert):
    learner = make_learner("s_prompts", nouns, tiny_bert, centres=3)
    list(learner.learn())
    for each, centres in zip(nouns.experiences, learner.strategy.state["centres"], strict=True):
        features = F.normalize(tiny_bert(each.train.inputs).features, dim=1).numpy()
        theirs = KMeans(3, init=centres.numpy(), n_init=1).fit(features)
        np.testing.assert_allclose(theirs.cluster_centers_, centres.numpy(), atol=1e-5)


def test_s_prompts_routes_to_the_centre_of_least_l1_distance(nouns, tiny_bert):
    def routed(centres):
        learner = make_learner("s_prompts", nouns, tiny_bert, adapter=None, centres=centres)
        list(learner.learn())
        inputs = Batch.cat([each.test for each in nouns.experiences]).inputs
        query = F.normalize(tiny_bert(inputs).features, dim=1)
        naive = []
        for q in query:
            least = [
                min((q - c).abs().sum() for c in cs) for cs in learner.strategy.state["centres"]
            ]
            naive.append(int(torch.stack(least).argmin()))
        assert learner.strategy.route(learner.model, inputs).tolist() == naive
        return naive

    assert routed(1) != routed(5)


def test_epi_routes_by_mahalanobis_distance_with_one_covariance_for_all(nouns, tiny_bert):
    learner = make_learner("epi", nouns, tiny_bert, adapter=None)
    list(learner.learn())
    means, covariances = [], []
    for each in nouns.experiences:
        features = tiny_bert(each.train.inputs).features.double().numpy()
        own = [features[each.train.labels.numpy() == c] for c in each.task.classes]
        means.append([rows.mean(axis=0) for rows in own])
        covariances.append(np.mean([np.cov(rows.T) for rows in own], axis=0))
    tolerance = 32 * np.finfo(np.float32).eps
    precision = np.linalg.pinv(np.mean(covariances, axis=0), rcond=tolerance, hermitian=True)
    inputs = Batch.cat([each.test for each in nouns.experiences]).inputs
    naive = []
    for q in tiny_bert(inputs).features.double().numpy():
        least = [min((q - mu) @ precision @ (q - mu) for mu in mus) for mus in means]
        naive.append(int(np.argmin(least)))
    got = learner.strategy.route(learner.model, inputs).tolist()
    assert sum(a == b for a, b in zip(got, naive, strict=True)) >= len(naive) - 1
    torch.testing.assert_close(
        learner.strategy.state["precision"].double(),
        torch.from_numpy(precision),
        atol=1e-2 * abs(precision).max(),
        rtol=0.0,
    )


def test_epi_never_routes_to_a_task_of_which_noise_left_no_class(nouns, tiny_bert):
    learner = make_learner("epi", nouns, tiny_bert, adapter="prefix")
    strategy, model = learner.strategy, learner.model
    strategy.setup(model)
    for number, each in enumerate(nouns.experiences):
        task = replace(each.task, index=number)
        strategy.begin_task(model, task, None)
        sums = strategy.review(model, replace(each.train, task=task)).sums
        if number != 1:
            sums = {**sums, "count": -sums["count"]}
        strategy.end_task(model, task, Summary(sums))
    inputs = Batch.cat([each.test for each in nouns.experiences]).inputs
    assert strategy.route(model, inputs).unique().tolist() == [1]
    assert strategy.state["precision"].isfinite().all()


def test_epi_loss_is_cross_entropy_of_the_tasks_own_prefix_and_head(nouns, tiny_bert):
    learner, data = after(1, "epi", nouns, tiny_bert, adapter="prefix")
    model = learner.model
    features = model(data.inputs, adapters=["task_1"]).features
    naive = F.cross_entropy(head_of(model, features, "task_1_head"), data.labels - 2)
    torch.testing.assert_close(learner.strategy.step(model, data, NO_REPLAY).loss, naive)


# hide_prompt


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


def test_a_refitted_head_is_sgd_with_a_cosine_on_gaussian_batches(tiny_bert):
    model = AdaptedModel(tiny_bert, None, 0)
    model.grow_head(3)
    features = torch.randn(30, 32, generator=generator_of(0, "rows"))
    gaussians = Gaussians.of(moments(features, torch.arange(30) % 3, 3))
    linear = nn.Linear(32, 3)
    linear.load_state_dict(model.adapters[HEAD].tensors)
    optimizer = torch.optim.SGD(linear.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
    for rows, labels in gaussians.batches(2, 10, generator_of(3, "x")):
        optimizer.zero_grad()
        F.cross_entropy(linear(rows), labels).backward()
        optimizer.step()
        schedule.step()
    refit_head(model, HEAD, gaussians, generator_of(3, "x"), 2, 0.1, per_class=10)
    for name, value in linear.state_dict().items():
        torch.testing.assert_close(model.adapters[HEAD].tensors[name].detach(), value)


# progressive_prompts


def residual_mlp(tensors):
    """The reparameterisation as torch modules."""
    width, dim = tensors["down.weight"].shape
    mlp = nn.Sequential(nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, dim), nn.LayerNorm(dim))
    names = {"0": "down", "2": "up", "3": "norm"}
    mlp.load_state_dict({k: tensors[names[k[0]] + k[1:]] for k in mlp.state_dict()})
    return lambda prompt: mlp(prompt) + prompt


def test_progressive_prompts_reads_the_newest_prompt_first_through_a_residual_mlp(nouns, tiny_bert):
    learner, data = after(2, "progressive_prompts", nouns, tiny_bert, bottleneck=12)
    model, strategy = learner.model, learner.strategy
    raw = [model.adapters[f"prompt_{k}"].tensors["prompt"] for k in range(3)]
    mlp = residual_mlp(model.adapters[progressive_prompts.MLP].tensors)
    tokens = torch.cat([mlp(raw[2]), raw[1], raw[0]])
    features = tiny_bert(data.inputs, Overlay(prompts=[tokens])).features
    naive = F.cross_entropy(head_of(model, features, "head_2"), data.labels - 4)
    loss = strategy.step(model, data, NO_REPLAY).loss
    torch.testing.assert_close(loss, naive, atol=1e-5, rtol=1e-4)
    trained = {each.split(".")[0] for each in model.parameters()}
    assert trained == {"prompt_2", progressive_prompts.MLP, "head_2"}


def test_progressive_prompts_start_as_words_of_the_vocabulary(nouns, tiny_bert):
    learner, _ = after(0, "progressive_prompts", nouns, tiny_bert)
    words = tiny_bert.model.get_input_embeddings().weight
    prompt = learner.model.adapters["prompt_0"].tensors["prompt"]
    assert (torch.cdist(prompt, words).min(dim=1).values < 1e-3).all()


def test_progressive_prompts_drop_the_mlp_without_changing_an_answer(nouns, tiny_bert):
    learner, data = after(1, "progressive_prompts", nouns, tiny_bert)
    model, strategy, task = learner.model, learner.strategy, task_of(learner)
    learner.descend(task, data)
    with torch.no_grad():
        before = strategy.predict(model, data.inputs, task)
        strategy.end_task(model, task, None)
        assert progressive_prompts.MLP not in model.adapters
        torch.testing.assert_close(strategy.predict(model, data.inputs, task), before)


def test_progressive_prompts_never_forget_a_task_that_is_told(nouns, tiny_bert):
    stream = replace(nouns, scenario="task_incremental")
    learner = make_learner("progressive_prompts", stream, tiny_bert)
    reports = learner.learn()
    next(reports)
    task = nouns.experiences[0].task
    before = answers(learner, nouns, task)
    last = list(reports)[-1]
    told = answers(learner, nouns, task)
    assert torch.equal(told[:, :2], before[:, :2])
    assert torch.equal(answers(learner, nouns), answers(learner, nouns, nouns.experiences[2].task))
    assert None not in last.test


def test_progressive_prompts_without_a_bottleneck_train_the_prompts_themselves(nouns, tiny_bert):
    def learned(bottleneck):
        learner, data = after(0, "progressive_prompts", nouns, tiny_bert, bottleneck=bottleneck)
        learner.descend(task_of(learner), data)
        learner.strategy.end_task(learner.model, task_of(learner), None)
        return learner.model.adapters["prompt_0"].tensors["prompt"].detach()

    plain = learned(0)
    assert (plain - learned(800)).abs().max() > 0.1
    learner, data = after(0, "progressive_prompts", nouns, tiny_bert, bottleneck=0)
    prompt = learner.model.adapters["prompt_0"].tensors["prompt"]
    features = tiny_bert(data.inputs, Overlay(prompts=[prompt])).features
    naive = F.cross_entropy(head_of(learner.model, features, "head_0"), data.labels)
    torch.testing.assert_close(learner.strategy.step(learner.model, data, NO_REPLAY).loss, naive)


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("dualprompt", {"g_length": 0}, "strategy.g_length"),
        ("dualprompt", {"e_layers": (2,)}, "strategy.e_layers"),
        ("dualprompt", {"pull": -0.1}, "strategy.pull"),
        ("coda_prompt", {"length": 3}, "strategy.length"),
        ("coda_prompt", {"components": 0}, "strategy.components"),
        ("coda_prompt", {"components": 33}, "strategy.components"),
        ("coda_prompt", {"orthogonality": -1.0}, "strategy.orthogonality"),
        ("s_prompts", {"centres": 0}, "strategy.centres"),
        ("hide_prompt", {"length": 0}, "strategy.length"),
        ("hide_prompt", {"layers": (-3,)}, "strategy.layers"),
        ("hide_prompt", {"contrast": -0.1}, "strategy.contrast"),
        ("progressive_prompts", {"bottleneck": -1}, "strategy.bottleneck"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_key(name, settings, key, nouns, tiny_bert):
    with pytest.raises(ValueError, match=key):
        make_learner(name, nouns, tiny_bert, **settings)
