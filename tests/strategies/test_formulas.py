"""Every strategy's loss, penalty or solution against a naive version written from the paper's
equations."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import Ridge

from lamina.adapters.model import HEAD, MAIN
from lamina.adapters.prompt_pool import POOL
from lamina.core import Batch, generator_of
from lamina.memory.memory import Replay
from lamina.ridge import ridge_solution, squared_error
from lamina.strategies.olora import PAST
from lamina.training.settings import TrainingSettings
from nouns import NO_REPLAY, after, drift, logits_of, make_learner

# finetune


def test_finetune_is_cross_entropy_over_all_classes_seen(nouns, tiny_bert):
    learner, data = after(1, "finetune", nouns, tiny_bert)
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    logits = logits_of(learner, data)
    naive = -logits.log_softmax(1)[torch.arange(len(data)), data.labels].mean()
    assert logits.shape[1] == 4
    torch.testing.assert_close(loss, naive)


# joint


def test_joint_trains_once_on_everything_and_only_the_last_row_is_defined(nouns, tiny_bert):
    learner = make_learner("joint", nouns, tiny_bert)
    reports = list(learner.learn())
    assert len(reports) == 1
    assert reports[0].done
    assert None not in reports[0].test
    assert learner.scores.matrices["test"].rows[:2] == [[None] * 3] * 2
    assert "test/forgetting" not in reports[0].metrics
    assert learner.num_steps == 2 * -(-30 // 4)


# er


def test_er_is_cross_entropy_on_the_union_of_batch_and_exemplars(nouns, tiny_bert):
    learner, data = after(1, "er", nouns, tiny_bert, replay_size=5)
    replay = Replay(learner.memory, learner._rows, 11, "cpu")
    loss = learner.strategy.step(learner.model, data, replay).loss
    exemplars = replay.draw(5)
    assert len(exemplars) == 5
    assert set(exemplars.ids.tolist()) <= set(nouns.experiences[0].train.ids.tolist())
    naive = sum(
        F.cross_entropy(logits_of(learner, part), part.labels, reduction="sum")
        for part in (data, exemplars)
    ) / (len(data) + 5)
    torch.testing.assert_close(loss, naive, atol=1e-5, rtol=1e-5)


def test_er_without_exemplars_is_finetune_and_with_them_remembers_more(minilm_nouns, minilm):
    training = TrainingSettings(epochs=6, batch_size=4, learning_rate=5e-3)

    def final(name, **settings):
        learner = make_learner(name, minilm_nouns, minilm, training=training, **settings)
        return list(learner.learn())[-1].metrics["test/average_accuracy"]

    assert final("er", replay_size=0) == final("finetune")
    assert final("er", replay_size=4) > final("finetune") + 0.2


# ewc


def test_ewc_fisher_is_the_mean_of_every_samples_squared_gradient(nouns, tiny_bert):
    learner, _ = after(1, "ewc", nouns, tiny_bert)
    fresh = make_learner("ewc", nouns, tiny_bert)
    next(fresh.learn())
    data = nouns.experiences[0].train
    parameters = fresh.model.parameters()
    naive = {name: torch.zeros_like(value) for name, value in parameters.items()}
    for one in data.chunks(1):
        loss = F.cross_entropy(fresh.model(one.inputs).logits, one.labels)
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        for name, gradient in zip(parameters, gradients, strict=True):
            naive[name] += gradient.square() / len(data)
    (kept,) = learner.strategy.state["kept"]
    for name, value in kept["fisher"].items():
        torch.testing.assert_close(value, naive[name], atol=1e-6, rtol=1e-3)


def test_ewc_pays_for_distance_from_the_anchor_weighted_by_fisher(nouns, tiny_bert):
    learner, data = after(1, "ewc", nouns, tiny_bert, strength=7.0)
    with torch.no_grad():
        for value in learner.model.parameters().values():
            value += 0.01
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    (kept,) = learner.strategy.state["kept"]
    penalty = sum((fisher * 0.01**2).sum() for fisher in kept["fisher"].values())
    plain = F.cross_entropy(logits_of(learner, data), data.labels)
    torch.testing.assert_close(loss, plain + 7.0 * penalty, atol=1e-6, rtol=1e-4)


def test_ewc_adds_the_fisher_of_later_tasks_and_pads_new_head_rows(nouns, tiny_bert):
    learner = make_learner("ewc", nouns, tiny_bert, decay=0.5)
    reports = learner.learn()
    next(reports)
    first = learner.strategy.state["kept"][0]["fisher"]
    next(reports)
    second = learner._summed(learner.strategy.review, nouns.experiences[1].train)
    (kept,) = learner.strategy.state["kept"]
    for name, value in kept["fisher"].items():
        expected = second[name] / second["count"]
        expected[: len(first[name])] += 0.5 * first[name]
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-3)
    assert len(kept["fisher"]["head.bias"]) == 4


def test_ewc_offline_is_held_by_every_task_at_the_place_that_it_left(nouns, tiny_bert):
    learner, data = after(2, "ewc", nouns, tiny_bert, strength=7.0, online=False)
    first, second = learner.strategy.state["kept"]
    parameters = learner.model.parameters()
    naive = F.cross_entropy(logits_of(learner, data), data.labels)
    for name, value in parameters.items():
        for task in (first, second):
            fisher, anchor = task["fisher"][name], task["anchor"][name]
            naive = naive + 7.0 * (fisher * (value[: len(anchor)] - anchor) ** 2).sum()
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    torch.testing.assert_close(loss, naive, atol=1e-6, rtol=1e-4)
    assert (first["anchor"]["head.bias"] - second["anchor"]["head.bias"][:2]).abs().max() > 0


def test_ewc_offline_is_online_until_there_is_a_second_task_to_remember(nouns, tiny_bert):
    def penalty(num_tasks, online):
        learner, data = after(num_tasks, "ewc", nouns, tiny_bert, online=online)
        with torch.no_grad():
            for value in learner.model.parameters().values():
                value += 0.01
        return learner.strategy.step(learner.model, data, NO_REPLAY).metrics["penalty"]

    assert penalty(1, online=True) == penalty(1, online=False)
    assert penalty(2, online=True) < penalty(2, online=False)


def test_ewc_of_no_strength_is_finetune_and_of_great_strength_stays_where_it_was(nouns, tiny_bert):
    def run(name, **settings):
        learner = make_learner(name, nouns, tiny_bert, **settings)
        reports = learner.learn()
        next(reports)
        before = {k: v.detach().clone() for k, v in learner.model.parameters().items()}
        next(reports)
        return drift(learner, before)

    free = run("finetune")
    assert run("ewc", strength=0.0) == free
    assert run("ewc", strength=1e6) < 0.7 * free


# lwf


def test_lwf_adds_the_divergence_of_softened_old_outputs(nouns, tiny_bert):
    learner, data = after(1, "lwf", nouns, tiny_bert, strength=3.0, temperature=2.0)
    teacher = logits_of(learner, data)[:, :2].detach()
    with torch.no_grad():
        for value in learner.model.parameters().values():
            value += 0.05 * torch.randn(value.shape, generator=generator_of(0, "noise"))
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    logits = logits_of(learner, data)
    p, q = (teacher / 2).softmax(1), (logits[:, :2] / 2).softmax(1)
    divergence = 4 * (p * (p / q).log()).sum(1).mean()
    new = F.cross_entropy(logits[:, 2:4], data.labels - 2)
    torch.testing.assert_close(loss, new + 3.0 * divergence, atol=1e-5, rtol=1e-4)


def test_lwf_teacher_stays_and_its_strength_holds_the_old_outputs(minilm_nouns, minilm):
    training = TrainingSettings(epochs=6, batch_size=4, learning_rate=5e-3)

    def run(strength):
        learner, data = after(1, "lwf", minilm_nouns, minilm, strength=strength, training=training)
        before = logits_of(learner, data)[:, :2].detach()
        learner._descend(learner.stream.experiences[learner.next_task].task, data)
        assert not learner.model.adapters["teacher"].trainable
        return (logits_of(learner, data)[:, :2].softmax(1) - before.softmax(1)).abs().mean()

    assert run(100.0) < 0.5 * run(0.0)


# l2p


def test_l2p_picks_the_nearest_keys_of_each_input_and_pulls_them(nouns, tiny_bert):
    learner, data = after(0, "l2p", nouns, tiny_bert, pool_size=6, top_k=2, pull=0.3)
    strategy, model = learner.strategy, learner.model
    keys = model.adapters[POOL].tensors["keys"]
    query = tiny_bert(data.inputs).features
    cosine = torch.stack([F.cosine_similarity(query, key[None]) for key in keys], dim=1)
    picked, _ = strategy.pick(model, data.inputs)
    expected = cosine.sort(dim=1, descending=True).indices[:, :2]
    assert torch.equal(picked, expected)
    loss = strategy.step(model, data, NO_REPLAY).loss
    logits = strategy.logits(model, data.inputs, expected)
    plain = F.cross_entropy(logits[:, :2], data.labels)
    pulled = sum(cosine[n, m] for n in range(len(data)) for m in expected[n]) / len(data)
    torch.testing.assert_close(loss, plain - 0.3 * pulled, atol=1e-5, rtol=1e-4)


def test_l2p_pull_draws_keys_to_their_queries(nouns, tiny_bert):
    def similarity(pull):
        learner, data = after(0, "l2p", nouns, tiny_bert, pull=pull)
        learner._descend(learner.stream.experiences[learner.next_task].task, data)
        return learner.strategy.pick(learner.model, data.inputs)[1].mean()

    assert similarity(5.0) > similarity(0.0) + 0.05


def test_l2p_head_reads_the_prompts_and_not_the_words(nouns, tiny_bert):
    learner, data = after(0, "l2p", nouns, tiny_bert)
    hidden = {}
    hook = tiny_bert.model.encoder.register_forward_hook(
        lambda m, a, out: hidden.update(tokens=out.last_hidden_state)
    )
    strategy, model = learner.strategy, learner.model
    picked, _ = strategy.pick(model, data.inputs)
    logits = strategy.logits(model, data.inputs, picked)
    hook.remove()
    prompts = hidden["tokens"][:, : strategy.top_k * strategy.length].mean(1)
    head = model.adapters[HEAD].tensors
    torch.testing.assert_close(logits, F.linear(prompts, head["weight"], head["bias"]))


# olora


def test_olora_pays_for_every_overlap_of_rows_with_the_past(nouns, tiny_bert):
    learner, data = after(
        2, "olora", nouns, tiny_bert, orthogonality=0.7, shrinkage=0.2, scale="paper"
    )
    model = learner.model
    past, current = model.adapters[PAST].tensors, model.adapters["task_2"].tensors
    overlap = 0.0
    for name in current:
        if "lora_A" in name:
            assert past[name].shape[0] == 16
            overlap += sum((p * c).sum().abs() for p in past[name] for c in current[name])
    norms = sum(tensor.square().sum().sqrt() for tensor in current.values())
    loss = learner.strategy.step(model, data, NO_REPLAY).loss
    plain = F.cross_entropy(logits_of(learner, data)[:, 4:6], data.labels - 4)
    naive = plain + 0.7 * overlap + 0.2 * norms
    torch.testing.assert_close(loss, naive, atol=1e-4, rtol=1e-4)


def test_olora_overlap_is_a_share_of_the_largest_and_costs_that_share_of_the_loss(nouns, tiny_bert):
    learner, data = after(2, "olora", nouns, tiny_bert, orthogonality=0.7)
    model = learner.model
    past, current = model.adapters[PAST].tensors, model.adapters["task_2"].tensors
    plain = F.cross_entropy(logits_of(learner, data)[:, 4:6], data.labels - 4)
    shares = []
    for name in current:
        if "lora_A" in name:
            pairs = [(p, c) for p in past[name] for c in current[name]]
            overlap = sum((p * c).sum().abs() for p, c in pairs)
            shares.append(overlap / sum(p.norm() * c.norm() for p, c in pairs))
    naive = plain * (1 + 0.7 * torch.stack(shares).mean())
    loss = learner.strategy.step(model, data, NO_REPLAY).loss
    torch.testing.assert_close(loss, naive, atol=1e-4, rtol=1e-4)
    # Longer rows overlap no more: a weight means the same wherever A starts.
    learner.strategy.orthogonality = 7.0
    before = learner.strategy.step(model, data, NO_REPLAY).loss
    for name, tensor in past.items():
        if "lora_A" in name:
            past[name] = 10 * tensor
        else:
            past[name] = tensor / 10
    torch.testing.assert_close(learner.strategy.step(model, data, NO_REPLAY).loss, before)


def test_olora_keeps_the_sum_of_all_updates_and_trains_only_the_last(nouns, tiny_bert):
    learner, data = after(2, "olora", nouns, tiny_bert)
    model = learner.model
    assert model.active == [PAST, "task_2"]
    assert {name.split(".")[0] for name in model.parameters()} == {"head", "task_2"}
    past = {k: v.clone() for k, v in model.adapters[PAST].tensors.items()}
    before = model(data.inputs).features.detach()
    torch.testing.assert_close(model(data.inputs, adapters=[PAST]).features, before)
    learner._descend(learner.stream.experiences[learner.next_task].task, data)
    assert all(torch.equal(past[k], v) for k, v in model.adapters[PAST].tensors.items())


def test_olora_weight_turns_the_new_subspace_away_from_the_past(nouns, tiny_bert):
    def overlap(weight):
        learner, data = after(1, "olora", nouns, tiny_bert, orthogonality=weight)
        learner._descend(learner.stream.experiences[learner.next_task].task, data)
        step = learner.strategy.step(learner.model, data, NO_REPLAY)
        return step.metrics["overlap"]

    assert overlap(5.0) < 0.5 * overlap(0.0)


# simplecil


def test_simplecil_compares_with_class_means_by_cosine(nouns, tiny_bert):
    learner = make_learner("simplecil", nouns, tiny_bert)
    list(learner.learn())
    train = Batch.cat([each.train for each in nouns.experiences])
    features = tiny_bert(train.inputs).features
    means = torch.stack([features[train.labels == c].mean(0) for c in range(6)])
    query = tiny_bert(nouns.experiences[1].test.inputs).features
    naive = torch.stack([F.cosine_similarity(query, mean[None]) for mean in means], dim=1)
    logits = learner.strategy.predict(learner.model, nouns.experiences[1].test.inputs, None)
    torch.testing.assert_close(logits, naive, atol=1e-4, rtol=1e-4)


# ranpac


def test_ranpac_solution_is_scikit_learns_ridge_on_all_tasks_at_once(minilm_nouns, minilm):
    learner = make_learner("ranpac", minilm_nouns, minilm, adapter=None, projection=96)
    list(learner.learn())
    train = Batch.cat([each.train for each in minilm_nouns.experiences])
    weight = learner.strategy.state["projection"]
    h = (minilm(train.inputs).features @ weight).relu().double().numpy()
    y = F.one_hot(train.labels, 6).double().numpy()
    ridge = Ridge(alpha=learner.strategy.state["ridge"], fit_intercept=False).fit(h, y)
    query = minilm(minilm_nouns.experiences[0].test.inputs).features
    theirs = torch.from_numpy(ridge.predict((query @ weight).relu().double().numpy())).float()
    ours = learner.strategy.predict(learner.model, minilm_nouns.experiences[0].test.inputs, None)
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=2e-3)


def test_ranpac_error_from_sums_is_the_residual_on_the_rows():
    generator = generator_of(0, "ridge")
    h = torch.rand(40, 12, generator=generator).double()
    y = F.one_hot(torch.arange(40) % 3, 3).double()
    solution = ridge_solution(h.T @ h, h.T @ y, 0.1)
    naive = torch.linalg.solve(h.T @ h + 0.1 * torch.eye(12), h.T @ y)
    torch.testing.assert_close(solution, naive)
    residual = (h @ solution - y).square().sum()
    error = squared_error(solution, h.T @ h, h.T @ y) + y.square().sum()
    torch.testing.assert_close(error, residual)


def test_ranpac_trains_its_adapter_on_the_first_task_only(nouns, tiny_bert):
    learner = make_learner("ranpac", nouns, tiny_bert)
    reports = learner.learn()
    next(reports)
    steps = learner.num_steps
    tensors = {k: v.detach().clone() for k, v in learner.model.adapters[MAIN].tensors.items()}
    assert steps == 2 * 3
    list(reports)
    assert learner.num_steps == steps
    after_all = learner.model.adapters[MAIN].tensors
    assert all(torch.equal(tensors[k], after_all[k]) for k in tensors)


def test_ranpac_projection_moves_the_result(minilm_nouns, minilm):
    def logits(width):
        learner = make_learner("ranpac", minilm_nouns, minilm, adapter=None, projection=width)
        list(learner.learn())
        inputs = minilm_nouns.experiences[0].test.inputs
        return learner.strategy.predict(learner.model, inputs, None)

    assert (logits(8) - logits(512)).abs().max() > 0.05


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("er", {"replay_size": -1}, "strategy.replay_size"),
        ("ewc", {"strength": -1.0}, "strategy.strength"),
        ("ewc", {"decay": 1.5}, "strategy.decay"),
        ("lwf", {"temperature": 0.0}, "strategy.temperature"),
        ("l2p", {"top_k": 11}, "strategy.top_k"),
        ("l2p", {"length": 0}, "strategy.length"),
        ("olora", {"orthogonality": -0.1}, "strategy.orthogonality"),
        ("ranpac", {"projection": 0}, "strategy.projection"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_key(name, settings, key, nouns, tiny_bert):
    with pytest.raises(ValueError, match=key):
        make_learner(name, nouns, tiny_bert, **settings)
