"""Strategies with an adapter per task or per layer, against naive versions written from the
papers' equations."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA

from lamina.adapters.kinds.bottleneck import Bottleneck
from lamina.adapters.mixture import descriptor_error, mixed_features
from lamina.adapters.model import HEAD, MAIN
from lamina.core import Batch, generator_of
from lamina.memory.gaussian import moments
from lamina.memory.memory import Replay
from lamina.strategies.ada import CONSOLIDATED, NEW, TEACHER_HEAD, transrate
from lamina.strategies.adaptercl import principal_density, surprise_of
from lamina.strategies.ease import complete
from lamina.strategies.lae import OFFLINE
from lamina.training.settings import TrainingSettings
from nouns import NO_REPLAY, after, make_learner

ROWS = 10


def disturb(*names, model, size=0.05):
    """Move adapters away from where they are, so that nothing is zero by chance."""
    for name in names:
        for key, tensor in model.adapters[name].tensors.items():
            noise = torch.randn(tensor.shape, generator=generator_of(0, name, key))
            with torch.no_grad():
                tensor += size * noise


def finished(name, stream, backbone, **settings):
    """A learner after the whole stream."""
    learner = make_learner(name, stream, backbone, **settings)
    list(learner.learn())
    return learner


def copies(model, name):
    """What an adapter holds now."""
    return {key: tensor.detach().clone() for key, tensor in model.adapters[name].tensors.items()}


def same(first, second):
    """Whether two sets of tensors are equal bit by bit."""
    return all(torch.equal(first[key], second[key]) for key in first)


# lae


def test_lae_moves_the_offline_adapter_by_a_share_of_the_distance(nouns, tiny_bert):
    learner, _ = after(1, "lae", nouns, tiny_bert, momentum=0.9)
    model = learner.model
    assert same(copies(model, OFFLINE), copies(model, MAIN))
    disturb(MAIN, model=model)
    before, online = copies(model, OFFLINE), copies(model, MAIN)
    learner.strategy.after_step(model, None)
    for key, tensor in model.adapters[OFFLINE].tensors.items():
        torch.testing.assert_close(tensor, 0.9 * before[key] + 0.1 * online[key])
    assert not model.adapters[OFFLINE].trainable


def test_lae_answers_with_the_larger_probability_of_its_two_experts(nouns, tiny_bert):
    learner, data = after(1, "lae", nouns, tiny_bert)
    model = learner.model
    disturb(MAIN, model=model, size=0.5)
    head = model.adapters[HEAD].tensors
    online, offline = (
        F.linear(
            tiny_bert(data.inputs, model.overlay([name])).features, head["weight"], head["bias"]
        ).softmax(1)
        for name in (MAIN, OFFLINE)
    )
    answer = learner.strategy.predict(model, data.inputs, None)
    for n in range(ROWS):
        for c in range(4):
            expected = max(online[n, c].item(), offline[n, c].item())
            assert answer[n, c].item() == pytest.approx(expected, abs=1e-5)
    assert (online > offline + 1e-3).any()
    assert (online < offline - 1e-3).any()


def test_lae_warms_up_the_head_before_the_adapter_moves(nouns, tiny_bert):
    learner, _ = after(1, "lae", nouns, tiny_bert, freeze=0.75)
    strategy, model, task = learner.strategy, learner.model, nouns.experiences[1].task
    assert strategy.phases(nouns.experiences[0].task) == (1.0,)
    assert strategy.phases(task) == (0.75, 0.25)
    strategy.begin_phase(model, task, 0)
    assert {name.split(".")[0] for name in model.parameters()} == {HEAD}
    strategy.begin_phase(model, task, 1)
    assert {name.split(".")[0] for name in model.parameters()} == {HEAD, MAIN}
    assert make_learner("lae", nouns, tiny_bert, freeze=0.0).strategy.phases(task) == (1.0,)


def test_lae_momentum_of_nothing_follows_and_of_one_stays_at_the_first_task(nouns, tiny_bert):
    first = make_learner("lae", nouns, tiny_bert)
    next(first.learn())
    stays = finished("lae", nouns, tiny_bert, momentum=1.0)
    assert same(copies(stays.model, OFFLINE), copies(first.model, MAIN))
    follows = finished("lae", nouns, tiny_bert, momentum=0.0)
    assert same(copies(follows.model, OFFLINE), copies(follows.model, MAIN))


@pytest.mark.parametrize("epochs", [2, 10])
def test_lae_keeps_the_same_of_itself_over_a_task_of_any_number_of_steps(epochs, nouns, tiny_bert):
    training = TrainingSettings(epochs=epochs, batch_size=4, learning_rate=1e-2)
    learner = make_learner("lae", nouns, tiny_bert, kept=0.7, training=training)
    reports = learner.learn()
    next(reports)
    steps = 3 * epochs
    assert learner.strategy.state["steps"] == steps
    next(reports)
    assert learner.strategy.state["decay"] ** steps == pytest.approx(0.7)
    assert make_learner("lae", nouns, tiny_bert).strategy.kept == pytest.approx(
        0.9999**1040, abs=0.01
    )


# ease


def test_ease_trains_a_cosine_classifier_over_the_tasks_classes(nouns, tiny_bert):
    learner, data = after(1, "ease", nouns, tiny_bert)
    model = learner.model
    with torch.no_grad():
        model.adapters["sigma"].tensors["value"] += 3.0
    features = tiny_bert(data.inputs, model.overlay(["subspace_1"])).features
    weight = model.adapters[HEAD].tensors["weight"]
    losses = []
    for n in range(ROWS):
        scores = [4 * F.cosine_similarity(features[n], weight[c], dim=0) for c in (2, 3)]
        losses.append(-torch.stack(scores).log_softmax(0)[data.labels[n] - 2])
    loss = learner.strategy.step(model, data, NO_REPLAY).loss
    torch.testing.assert_close(loss, torch.stack(losses).mean(), atol=1e-5, rtol=1e-4)
    trained = {name.split(".")[0] for name in model.parameters()}
    assert trained == {HEAD, "sigma", "subspace_1"}


def test_ease_fills_gaps_by_similarity_in_the_old_classs_own_subspace():
    means = torch.randn(3, 3, 5, generator=generator_of(0, "means"))
    is_real = torch.tensor([[True, False, False], [True, True, False], [True, True, True]])
    full = complete(means, is_real, torch.tensor([0, 1, 2]))
    cosine = [F.cosine_similarity(means[0, 0], means[j, 0], dim=0) for j in (1, 2)]
    share = torch.stack(cosine).softmax(0)
    expected = share[0] * means[1, 1] + share[1] * means[2, 1]
    torch.testing.assert_close(full[0, 1], expected)
    torch.testing.assert_close(full[0, 2], means[2, 2])
    torch.testing.assert_close(full[1, 2], means[2, 2])
    assert torch.equal(full[is_real], means[is_real])


def test_ease_prototypes_are_means_of_the_rows_that_met_the_adapter(nouns, tiny_bert):
    learner = finished("ease", nouns, tiny_bert)
    prototypes = learner.strategy.state["prototypes"]
    for task in range(3):
        train = nouns.experiences[task].train
        for index in range(task + 1):
            overlay = learner.model.overlay([f"subspace_{index}"])
            features = tiny_bert(train.inputs, overlay).features
            for c in (2 * task, 2 * task + 1):
                naive = features[train.labels == c].mean(0)
                torch.testing.assert_close(prototypes[c, index], naive, atol=1e-4, rtol=1e-4)


def test_ease_weighs_other_subspaces_by_alpha_and_none_is_the_own_one_alone(nouns, tiny_bert):
    inputs = nouns.experiences[1].test.inputs

    def scores(alpha):
        learner = finished("ease", nouns, tiny_bert, alpha=alpha)
        prototypes = learner.strategy.state["prototypes"]
        overlays = [learner.model.overlay([f"subspace_{i}"]) for i in range(3)]
        features = [tiny_bert(inputs, overlay).features for overlay in overlays]
        cosine = torch.zeros(4, 6, 3)
        for n in range(4):
            for c in range(6):
                for i in range(3):
                    cosine[n, c, i] = F.cosine_similarity(features[i][n], prototypes[c, i], dim=0)
        return learner.strategy.predict(learner.model, inputs, None), cosine

    answer, cosine = scores(0.5)
    for c in range(6):
        own = c // 2
        others = sum(cosine[:, c, i] for i in range(3) if i != own)
        naive = cosine[:, c, own] + 0.5 / 2 * others
        torch.testing.assert_close(answer[:, c], naive, atol=1e-4, rtol=1e-4)
    alone, cosine = scores(0.0)
    own = torch.stack([cosine[:, c, c // 2] for c in range(6)], dim=1)
    torch.testing.assert_close(alone, own, atol=1e-4, rtol=1e-4)


# c_ada


def test_c_ada_slices_are_one_wider_layer_beside_a_scaled_and_shifted_mlp(nouns, tiny_bert):
    learner, data = after(2, "c_ada", nouns, tiny_bert)
    model = learner.model
    names = ["slice_0", "slice_1", "slice_2"]
    disturb("shift", *names, model=model, size=0.1)
    parts = [model.adapters[name].tensors for name in names]
    wide = {}
    for key in parts[0]:
        tensors = [part[key] for part in parts]
        if key.endswith("up.bias"):
            wide[key] = sum(tensors)
        else:
            wide[key] = torch.cat(tensors, dim=1 if key.endswith("up.weight") else 0)

    def scale_and_shift(layer):
        def change(module, inputs, y):
            tensors = model.adapters["shift"].tensors
            return tensors[f"{layer}.scale"] * y + tensors[f"{layer}.shift"]

        return change

    sites = tiny_bert.architecture.mlps
    hooks = [
        tiny_bert.model.get_submodule(site.write).register_forward_hook(scale_and_shift(layer))
        for layer, site in enumerate(sites)
    ]
    kind = Bottleneck(width=3 * 64, scale=model.kind.scale)
    moved = tiny_bert(data.inputs, kind.overlay(wide, tiny_bert)).features
    for hook in hooks:
        hook.remove()
    head = model.adapters[HEAD].tensors
    naive = F.linear(moved, head["weight"], head["bias"])
    answer = learner.strategy.predict(model, data.inputs, None)
    torch.testing.assert_close(answer, naive, atol=1e-5, rtol=1e-4)


def test_c_ada_pays_for_the_overlap_of_down_projections(nouns, tiny_bert):
    learner, data = after(2, "c_ada", nouns, tiny_bert, orthogonality=0.3)
    strategy, model = learner.strategy, learner.model
    penalty = 0.0
    for layer in range(2):
        new = model.adapters["slice_2"].tensors[f"{layer}.down.weight"]
        squares = 0.0
        for past in ("slice_0", "slice_1"):
            old = model.adapters[past].tensors[f"{layer}.down.weight"]
            squares += sum((a @ b).square() for a in old for b in new)
        penalty += squares.sqrt()
    plain = F.cross_entropy(strategy.predict(model, data.inputs, None)[:, 4:], data.labels - 4)
    loss = strategy.step(model, data, NO_REPLAY).loss
    torch.testing.assert_close(loss, plain + 0.3 * penalty, atol=1e-4, rtol=1e-4)
    trained = {name.split(".")[0] for name in model.parameters()}
    assert trained == {HEAD, "slice_2"}


def test_c_ada_trains_scale_and_shift_on_the_first_task_only(nouns, tiny_bert):
    learner = make_learner("c_ada", nouns, tiny_bert)
    reports = learner.learn()
    next(reports)
    learned = copies(learner.model, "shift")
    assert (learned["0.scale"] != 1).all()
    list(reports)
    assert same(learned, copies(learner.model, "shift"))


def test_c_ada_weight_turns_the_new_slice_away_from_the_past(nouns, tiny_bert):
    def overlap(weight):
        learner, data = after(1, "c_ada", nouns, tiny_bert, orthogonality=weight)
        learner._descend(nouns.experiences[1].task, data)
        return learner.strategy.overlap(learner.model).item()

    assert overlap(5.0) < 0.7 * overlap(0.0)


# adaptercl


def test_adaptercl_density_is_scikit_learns_probabilistic_pca():
    generator = generator_of(0, "pca")
    rows = torch.randn(60, 12, generator=generator) @ torch.randn(12, 12, generator=generator) + 3
    gaussian = torch.cov(rows.T)
    density = {"mean": rows.mean(0), **principal_density(gaussian, 4)}
    query = torch.randn(7, 12, generator=generator) + 3
    ours = surprise_of(query, density).double()
    theirs = -torch.from_numpy(PCA(4, svd_solver="full").fit(rows.double()).score_samples(query))
    constant = 12 / 2 * torch.log(torch.tensor(2 * torch.pi))
    torch.testing.assert_close(ours + constant, theirs, atol=1e-3, rtol=1e-3)


def test_adaptercl_sends_an_input_to_the_least_surprised_task(nouns, tiny_bert):
    learner = finished("adaptercl", nouns, tiny_bert, components=3)
    strategy, model = learner.strategy, learner.model
    data = nouns.experiences[1].test
    frozen = tiny_bert(data.inputs).features
    chosen = []
    for feature in frozen:
        surprise = [surprise_of(feature[None], each) for each in strategy.state["densities"]]
        chosen.append(int(torch.cat(surprise).argmin()))
    assert strategy.route(model, data.inputs).tolist() == chosen
    answer = strategy.predict(model, data.inputs, None)
    for n, index in enumerate(chosen):
        head = model.adapters[f"head_{index}"].tensors
        features = tiny_bert(data.inputs, model.overlay([f"task_{index}"])).features[n]
        own = F.linear(features, head["weight"], head["bias"])
        torch.testing.assert_close(answer[n, 2 * index : 2 * index + 2], own, atol=1e-4, rtol=1e-4)
        assert answer[n].isinf().sum() == 4


def test_adaptercl_told_the_task_does_not_route(nouns, tiny_bert):
    learner = finished("adaptercl", nouns, tiny_bert)
    data, task = nouns.experiences[0].test, nouns.experiences[2].task
    answer = learner.strategy.predict(learner.model, data.inputs, task)
    assert answer[:, :4].isinf().all()
    assert answer[:, 4:].isfinite().all()


def test_adaptercl_trains_one_adapter_at_a_time_and_keeps_the_others(nouns, tiny_bert):
    learner, data = after(1, "adaptercl", nouns, tiny_bert)
    model = learner.model
    assert {name.split(".")[0] for name in model.parameters()} == {"task_1", "head_1"}
    loss = learner.strategy.step(model, data, NO_REPLAY).loss
    logits = model(data.inputs, adapters=["task_1"], head="head_1").logits
    torch.testing.assert_close(loss, F.cross_entropy(logits, data.labels - 2))


def test_adaptercl_components_move_the_density(nouns, tiny_bert):
    features = tiny_bert(nouns.experiences[0].test.inputs).features

    def surprise(components):
        learner = make_learner("adaptercl", nouns, tiny_bert, components=components)
        next(learner.learn())
        return surprise_of(features, learner.strategy.state["densities"][0])

    assert (surprise(1) - surprise(5)).abs().min() > 0.1


# ada


def test_ada_transrate_is_the_coding_rate_that_labels_explain():
    rows = torch.randn(30, 6, generator=generator_of(0, "transrate")).double()
    labels = torch.arange(30) % 3
    rows += labels[:, None]
    centred = rows - rows.mean(0)

    def rate(z):
        return 0.5 * torch.logdet(torch.eye(6) + z.T @ z / (len(z) * 1e-4))

    naive = rate(centred) - sum(rate(centred[labels == c]) for c in range(3)) / 3
    torch.testing.assert_close(transrate(moments(rows, labels, 3)), naive, rtol=1e-6, atol=1e-6)


def test_ada_distils_two_centred_teachers_into_one_student(nouns, tiny_bert):
    learner, data = after(2, "ada", nouns, tiny_bert, pool_size=1)
    strategy, model, task = learner.strategy, learner.model, nouns.experiences[2].task
    assert strategy.phases(task) == (1.0, 1.0)
    disturb(NEW, model=model)
    strategy.begin_phase(model, task, 1)
    disturb(CONSOLIDATED, HEAD, model=model)
    assert {name.split(".")[0] for name in model.parameters()} == {HEAD, CONSOLIDATED}

    def logits(adapter, head):
        tensors = model.adapters[head].tensors
        features = tiny_bert(data.inputs, model.overlay([adapter])).features
        return F.linear(features, tensors["weight"], tensors["bias"])

    old, new = logits("pool_0", TEACHER_HEAD)[:, :4], logits(NEW, TEACHER_HEAD)[:, 4:]
    student = logits(CONSOLIDATED, HEAD)
    loss = 0.0
    for n in range(ROWS):
        for c in range(6):
            wanted = old[n, c] - sum(old[n]) / 4 if c < 4 else new[n, c - 4] - sum(new[n]) / 2
            loss += (student[n, c] - wanted) ** 2 / (6 * ROWS)
    torch.testing.assert_close(
        strategy.step(model, data, NO_REPLAY).loss, loss, atol=1e-5, rtol=1e-4
    )


def test_ada_replaces_the_most_related_adapter_of_a_full_pool(nouns, tiny_bert):
    learner, data = after(2, "ada", nouns, tiny_bert, pool_size=2)
    strategy, model = learner.strategy, learner.model
    scores = [
        transrate(moments(model(data.inputs, adapters=[name]).features, data.labels - 4, 2))
        for name in ("pool_0", "pool_1")
    ]
    chosen = int(torch.stack(scores).argmax())
    assert strategy.state["slot"] == chosen
    before = [copies(model, f"pool_{slot}") for slot in range(2)]
    learner = finished("ada", nouns, tiny_bert, pool_size=2)
    kept, replaced = 1 - chosen, chosen
    assert same(before[kept], copies(learner.model, f"pool_{kept}"))
    assert not same(before[replaced], copies(learner.model, f"pool_{replaced}"))
    groups = learner.strategy.state["classes"]
    assert groups[replaced] == [2 * replaced, 2 * replaced + 1, 4, 5]
    assert set(learner.model.adapters) == {HEAD, "pool_0", "pool_1"}
    answer = learner.strategy.predict(learner.model, data.inputs, None)
    for slot, classes in enumerate(groups):
        logits = learner.model(data.inputs, adapters=[f"pool_{slot}"]).logits
        assert torch.equal(answer[:, classes], logits[:, classes])


def test_ada_gives_classes_that_come_again_to_the_adapter_that_learned_them_last(nouns, tiny_bert):
    learner, data = after(1, "ada", nouns, tiny_bert, pool_size=1)
    again = replace(nouns.experiences[1].task, classes=(1, 2))
    strategy, model = learner.strategy, learner.model
    strategy.begin_phase(model, again, 1)
    labels = torch.where(data.labels == 3, 1, data.labels)
    loss = strategy.step(model, replace(data, task=again, labels=labels), NO_REPLAY).loss
    features = model(data.inputs, adapters=[CONSOLIDATED]).features
    wanted = []
    for name, classes in (("pool_0", [0]), (NEW, [1, 2])):
        logits = model(data.inputs, adapters=[name], head=TEACHER_HEAD).logits[:, classes]
        wanted.append(logits - logits.mean(1, keepdim=True))
    student = model.logits(features)[:, :3]
    torch.testing.assert_close(loss, F.mse_loss(student, torch.cat(wanted, dim=1)))
    strategy.end_task(model, again, None)
    assert strategy.state["classes"] == [[0, 1, 2]]


def test_ada_with_room_for_every_task_keeps_each_adapter_as_it_was_learned(nouns, tiny_bert):
    learner = make_learner("ada", nouns, tiny_bert, pool_size=3)
    reports = learner.learn()
    next(reports)
    first = copies(learner.model, "pool_0")
    list(reports)
    assert same(first, copies(learner.model, "pool_0"))
    assert learner.num_steps == 3 * 2 * 3
    assert finished("ada", nouns, tiny_bert, pool_size=1).num_steps == 5 * 2 * 3


def test_ada_longer_distillation_comes_closer_to_the_teachers(nouns, tiny_bert):
    def remains(share):
        learner, data = after(1, "ada", nouns, tiny_bert, pool_size=1, distillation=share)
        learner._descend(nouns.experiences[1].task, data)
        return learner.strategy.step(learner.model, data, NO_REPLAY).loss

    assert remains(4.0) < 0.8 * remains(0.5)


# acl


def test_acl_first_phase_calls_exemplars_others(nouns, tiny_bert):
    learner, data = after(1, "acl", nouns, tiny_bert, replay_size=5)
    strategy, model = learner.strategy, learner.model
    strategy.begin_phase(model, nouns.experiences[1].task, 0)
    assert {name.split(".")[0] for name in model.parameters()} == {"task_1", "head_1"}
    replay = Replay(learner.memory, learner._rows, 7, "cpu")
    exemplars = replay.draw(5)
    rows = [(data, data.labels - 2), (exemplars, torch.full((5,), 2))]
    losses = []
    for batch, labels in rows:
        logits = model(batch.inputs, adapters=["task_1"], head="head_1").logits
        assert logits.shape[1] == 3
        losses.append(F.cross_entropy(logits, labels, reduction="none"))
    loss = strategy.step(model, data, replay).loss
    torch.testing.assert_close(loss, torch.cat(losses).mean(), atol=1e-5, rtol=1e-4)


def test_acl_second_phase_sums_over_heads_on_a_balanced_mixture(nouns, tiny_bert):
    learner, data = after(2, "acl", nouns, tiny_bert, replay_size=5)
    strategy, model = learner.strategy, learner.model
    batch = data[slice(0, 3)]
    strategy.begin_phase(model, nouns.experiences[2].task, 1)
    trained = {name.split(".")[0] for name in model.parameters()}
    assert trained == {"head_0", "head_1", "head_2"}
    replay = Replay(learner.memory, learner._rows, 7, "cpu")
    exemplars = replay.draw(5)
    loss = 0.0
    for index in range(3):
        for each, num_classes in ((batch, 2), (exemplars, 4)):
            logits = model(each.inputs, adapters=[f"task_{index}"], head=f"head_{index}").logits
            for n, label in enumerate(each.labels.tolist()):
                place = label - 2 * index if label // 2 == index else 2
                loss -= logits[n].log_softmax(0)[place] / len(each) * num_classes / 6
    torch.testing.assert_close(strategy.step(model, batch, replay).loss, loss, atol=1e-4, rtol=1e-4)


def test_acl_answers_with_the_head_that_doubts_least(nouns, tiny_bert):
    learner = finished("acl", nouns, tiny_bert)
    strategy, model = learner.strategy, learner.model
    data = Batch.cat([each.test for each in nouns.experiences])
    chances = [
        model(data.inputs, adapters=[f"task_{i}"], head=f"head_{i}").logits.softmax(1)
        for i in range(3)
    ]
    route = strategy.route(model, data.inputs)
    answer = strategy.predict(model, data.inputs, None)
    for n in range(len(data)):
        others = [chance[n, 2].item() for chance in chances]
        chosen = others.index(min(others))
        assert route[n] == chosen
        own = slice(2 * chosen, 2 * chosen + 2)
        torch.testing.assert_close(answer[n, own].exp(), chances[chosen][n, :2])
        assert answer[n].isinf().sum() == 4
    told = strategy.predict(model, data.inputs, nouns.experiences[1].task)
    torch.testing.assert_close(told[:, 2:4].exp(), chances[1][:, :2], atol=1e-4, rtol=1e-4)


def test_acl_second_phase_trains_heads_only_and_for_its_share(nouns, tiny_bert):
    learner = make_learner("acl", nouns, tiny_bert, fine_tuning=0.5)
    reports = learner.learn()
    next(reports)
    assert learner.num_steps == 2 * 3
    adapter, head = copies(learner.model, "task_0"), copies(learner.model, "head_0")
    next(reports)
    assert learner.num_steps == 2 * 3 + 3 * 3
    assert same(adapter, copies(learner.model, "task_0"))
    assert not same(head, copies(learner.model, "head_0"))


def test_acl_before_there_are_exemplars_is_cross_entropy_of_the_new_head(nouns, tiny_bert):
    learner, data = after(0, "acl", nouns, tiny_bert)
    strategy, model = learner.strategy, learner.model
    strategy.begin_phase(model, nouns.experiences[0].task, 0)
    logits = model(data.inputs, adapters=["task_0"], head="head_0").logits
    assert logits.shape[1] == 3
    loss = strategy.step(model, data, NO_REPLAY).loss
    torch.testing.assert_close(loss, F.cross_entropy(logits, data.labels))


# sema


def sema(stream, backbone, **settings):
    """SEMA on tiny backbones, where a code of 4 is already narrow."""
    settings = {"descriptor_width": 4, **settings}
    return finished("sema", stream, backbone, adapter="bottleneck", **settings)


def test_sema_mixes_a_layers_adapters_by_its_router(nouns, tiny_bert):
    learner = sema(nouns, tiny_bert, threshold=1e-3)
    model = learner.model
    assert learner.strategy.state["experts"] == {"1": [0, 1, 2]}
    disturb("adapter_0", "adapter_1", "adapter_2", model=model, size=0.3)
    disturb("router_0", "router_1", "router_2", model=model, size=0.3)
    inputs = nouns.experiences[0].test.inputs
    mask = inputs["attention_mask"]
    hooks, seen = [], {}

    def bottleneck(number, layer, x):
        tensors = model.adapters[f"adapter_{number}"].tensors
        down = F.linear(
            x, tensors[f"{layer}.down.weight"], tensors[f"{layer}.down.bias"]
        ).clamp_min(0)
        up = F.linear(down, tensors[f"{layer}.up.weight"], tensors[f"{layer}.up.bias"])
        return model.kind.scale * up

    def read(layer):
        return lambda module, arguments: seen.update({layer: arguments[0]})

    def first(module, arguments, y):
        return y + bottleneck(0, 0, seen[0])

    def second(module, arguments, y):
        out = y.clone()
        for n in range(len(y)):
            words = seen[1][n][mask[n] == 1]
            mean = sum(words) / len(words)
            routers = [model.adapters[f"router_{m}"].tensors for m in range(3)]
            logits = [router["1.weight"][0] @ mean + router["1.bias"][0] for router in routers]
            weights = torch.stack(logits).softmax(0)
            out[n] += sum(weights[m] * bottleneck(m, 1, seen[1][n]) for m in range(3))
        return out

    for layer, change in enumerate((first, second)):
        site = tiny_bert.architecture.mlps[layer]
        modules = [tiny_bert.model.get_submodule(name) for name in (site.read, site.write)]
        hooks.append(modules[0].register_forward_pre_hook(read(layer)))
        hooks.append(modules[1].register_forward_hook(change))
    naive = tiny_bert(inputs).features
    for hook in hooks:
        hook.remove()
    ours, means = mixed_features(model, inputs, learner.strategy.state["experts"])
    torch.testing.assert_close(ours, naive, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(means["1"][0], seen[1][0][mask[0] == 1].mean(0))


def test_sema_with_one_adapter_is_that_adapter(nouns, tiny_bert):
    learner = sema(nouns, tiny_bert, threshold=1e6)
    model = learner.model
    assert model.active == ["adapter_0"]
    inputs = nouns.experiences[0].test.inputs
    ours = learner.strategy.predict(model, inputs, None)
    torch.testing.assert_close(ours, model(inputs).logits)


def test_sema_remembers_mean_and_deviation_of_reconstruction_errors(nouns, tiny_bert):
    learner = sema(nouns, tiny_bert, threshold=1e6)
    model, train = learner.model, nouns.experiences[0].train
    _, means = mixed_features(model, train.inputs, learner.strategy.state["experts"])
    tensors = model.adapters["descriptor_1_0"].tensors
    errors = []
    for mean in means["1"]:
        code = tensors["encoder"] @ mean + tensors["code_bias"]
        back = tensors["decoder"] @ code + tensors["bias"]
        errors.append(((mean - back) ** 2).mean())
    errors = torch.stack(errors)
    usual = learner.strategy.state["errors"]["1.0"]
    torch.testing.assert_close(usual, torch.stack([errors.mean(), errors.std()]), rtol=1e-3, atol=0)


def test_sema_expands_where_the_mean_z_score_of_every_adapter_exceeds_the_threshold(
    nouns, tiny_bert
):
    learner, data = after(
        1, "sema", nouns, tiny_bert, adapter="bottleneck", threshold=1e-3, descriptor_width=4
    )
    strategy, model = learner.strategy, learner.model
    strategy.state["experts"]["1"].pop()
    _, means = mixed_features(model, data.inputs, strategy.state["experts"])
    mean, deviation = strategy.state["errors"]["1.0"]
    error = descriptor_error(model, "1", 0, means["1"])
    score = sum(abs(each - mean) / deviation for each in error) / ROWS
    preview = learner._summed(strategy.preview, data)
    torch.testing.assert_close(preview["1"][0] / preview["count"], score, atol=1e-4, rtol=1e-4)
    for threshold, new in ((0.99 * score.item(), ["1"]), (1.01 * score.item(), [])):
        other = make_learner("sema", nouns, tiny_bert, adapter="bottleneck", threshold=threshold)
        other.strategy.begin_task(other.model, nouns.experiences[0].task, None)
        other.strategy.begin_task(other.model, nouns.experiences[1].task, preview)
        assert other.strategy.state["new"] == new


def test_sema_without_a_surprise_trains_the_head_alone_and_with_one_in_two_phases(nouns, tiny_bert):
    def begun(threshold):
        learner, _ = after(1, "sema", nouns, tiny_bert, adapter="bottleneck", threshold=threshold)
        strategy, model, task = learner.strategy, learner.model, nouns.experiences[1].task
        trained = []
        for phase, _ in enumerate(strategy.phases(task)):
            strategy.begin_phase(model, task, phase)
            trained.append({name.split(".")[0] for name in model.parameters()})
        return trained

    assert begun(1e6) == [{HEAD}]
    assert begun(1e-3) == [{HEAD, "adapter_1", "router_1"}, {"descriptor_1_1"}]


def test_sema_descriptor_learns_to_reconstruct_in_its_phase(nouns, tiny_bert):
    def error(share):
        learner = make_learner("sema", nouns, tiny_bert, adapter="bottleneck", description=share)
        next(learner.learn())
        return learner.strategy.state["errors"]["1.0"][0]

    assert error(4.0) < 0.8 * error(0.5)


def test_sema_grows_by_image_too_and_in_as_many_layers_as_it_may(shapes, tiny_vit):
    learner = sema(shapes, tiny_vit, threshold=1e-3, growing=2)
    assert learner.strategy.state["experts"] == {"0": [0, 1, 2], "1": [0, 1, 2]}
    assert sema(shapes, tiny_vit, threshold=1e6).model.active == ["adapter_0"]


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("lae", {"momentum": 1.5}, "strategy.momentum"),
        ("lae", {"freeze": 1.0}, "strategy.freeze"),
        ("ease", {"alpha": -0.1}, "strategy.alpha"),
        ("c_ada", {"orthogonality": -1.0}, "strategy.orthogonality"),
        ("adaptercl", {"components": 0}, "strategy.components"),
        ("ada", {"pool_size": 0}, "strategy.pool_size"),
        ("ada", {"distillation": 0.0}, "strategy.distillation"),
        ("acl", {"replay_size": 0}, "strategy.replay_size"),
        ("acl", {"fine_tuning": 0.0}, "strategy.fine_tuning"),
        ("sema", {"threshold": 0.0}, "strategy.threshold"),
        ("sema", {"descriptor_width": 0}, "strategy.descriptor_width"),
        ("sema", {"growing": 0}, "strategy.growing"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_key(name, settings, key, nouns, tiny_bert):
    with pytest.raises(ValueError, match=key):
        make_learner(name, nouns, tiny_bert, **settings)
