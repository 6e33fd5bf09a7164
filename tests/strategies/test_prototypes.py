"""Prototypes and Gaussian memory: each method's classifier, loss or merge against a naive version
written from the paper's equations."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import NearestCentroid

from lamina.adapters.model import HEAD, MAIN
from lamina.core import Batch, generator_of
from lamina.memory.gaussian import Gaussians
from lamina.strategies.fecam import correlation, shrunk_covariance
from lamina.strategies.safe import FAST, SLOW_HEAD, transfer
from lamina.strategies.slca import ALIGNED, normalised_logits
from lamina.strategies.ssiat import BEFORE
from nouns import NO_REPLAY, after, drift, logits_of, make_learner


def learned(name, stream, backbone, **settings):
    """A learner at the end of the stream."""
    learner = make_learner(name, stream, backbone, **settings)
    list(learner.learn())
    return learner


def answers(learner, data):
    with torch.no_grad():
        return learner.strategy.predict(learner.model, data.inputs, None)


def every_train(stream):
    return Batch.cat([each.train for each in stream.experiences])


def features_of(learner, data, adapters=None):
    with torch.no_grad():
        return learner.model(data.inputs, adapters).features


def train(learner, data):
    """The task that `after` began."""
    learner._descend(learner.stream.experiences[learner.next_task].task, data)


# ncm


def test_ncm_answers_with_the_nearest_class_mean(nouns, tiny_bert):
    learner = learned("ncm", nouns, tiny_bert)
    data, test = every_train(nouns), nouns.experiences[1].test
    features, query = tiny_bert(data.inputs).features, tiny_bert(test.inputs).features
    naive = torch.stack(
        [-(query - features[data.labels == c].mean(0)).square().sum(1) for c in range(6)], dim=1
    )
    torch.testing.assert_close(answers(learner, test), naive, atol=1e-3, rtol=1e-4)
    theirs = NearestCentroid().fit(features.numpy(), data.labels.numpy()).predict(query.numpy())
    assert answers(learner, test).argmax(1).tolist() == theirs.tolist()


@pytest.mark.parametrize("name", ["ncm", "slda"])
def test_without_task_boundaries_the_sums_are_the_same(name, nouns, tiny_bert):
    bounded = learned(name, nouns, tiny_bert)
    free = learned(name, replace(nouns, scenario="task_free"), tiny_bert)
    for key, value in bounded.strategy.state.items():
        torch.testing.assert_close(free.strategy.state[key], value, atol=1e-3, rtol=1e-4)
    test = nouns.experiences[2].test
    torch.testing.assert_close(answers(free, test), answers(bounded, test), atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize("name", ["ncm", "slda", "simplecil", "aper", "fecam"])
def test_classes_without_a_row_never_win(name, nouns, tiny_bert):
    learner, data = after(1, name, nouns, tiny_bert)
    learner.model.grow_head(6)
    learner.strategy.end_task(
        learner.model,
        nouns.experiences[2].task,
        learner._summed(learner.strategy.review, nouns.experiences[2].train),
    )
    logits = answers(learner, data)
    assert torch.isinf(logits[:, 2:4]).all()
    assert logits[:, [0, 1, 4, 5]].isfinite().all()


# slda


def test_slda_is_scikit_learns_discriminant_analysis_with_equal_priors(nouns, tiny_bert):
    shrinkage = 0.3
    learner = learned("slda", nouns, tiny_bert, shrinkage=shrinkage)
    data, test = every_train(nouns), nouns.experiences[0].test
    x, y = tiny_bert(data.inputs).features.double().numpy(), data.labels.numpy()
    within = sum(np.cov(x[y == c].T, bias=True) for c in range(6)) / 6
    torch.testing.assert_close(
        learner.strategy.covariance(), torch.from_numpy(within), atol=1e-5, rtol=1e-4
    )
    # scikit-learn shrinks towards the mean variance, SLDA towards 1: the same up to a scale.
    odds = shrinkage / (1 - shrinkage)
    theirs = odds / (np.trace(within) / len(within) + odds)
    analysis = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=theirs).fit(x, y)
    query = tiny_bert(test.inputs).features.double().numpy()
    expected = (analysis.decision_function(query) - np.log(1 / 6)) * (1 - theirs) / (1 - shrinkage)
    torch.testing.assert_close(
        answers(learner, test).double(), torch.from_numpy(expected), atol=1e-2, rtol=1e-3
    )


def test_slda_shrunk_to_the_identity_is_the_nearest_class_mean(nouns, tiny_bert):
    test = nouns.experiences[1].test
    distances = answers(learned("ncm", nouns, tiny_bert), test)
    linear = answers(learned("slda", nouns, tiny_bert, shrinkage=1.0), test)
    difference = (2 * linear - distances).double()
    expected = difference[:, :1].expand_as(difference)
    torch.testing.assert_close(difference, expected, atol=1e-2, rtol=1e-4)
    other = answers(learned("slda", nouns, tiny_bert, shrinkage=0.01), test)
    assert (other - linear).abs().max() > 1.0


# aper


def test_aper_compares_frozen_and_adapted_features_side_by_side(nouns, tiny_bert):
    learner = learned("aper", nouns, tiny_bert)
    data, test = every_train(nouns), nouns.experiences[1].test

    def both(batch):
        return torch.cat([tiny_bert(batch.inputs).features, features_of(learner, batch)], dim=1)

    means = torch.stack([both(data)[data.labels == c].mean(0) for c in range(6)])
    naive = torch.stack([F.cosine_similarity(both(test), mean[None]) for mean in means], dim=1)
    torch.testing.assert_close(answers(learner, test), naive, atol=1e-4, rtol=1e-4)
    assert (both(test)[:, :32] - both(test)[:, 32:]).abs().max() > 0.01


def test_aper_without_an_adapter_is_simplecil(nouns, tiny_bert):
    test = nouns.experiences[1].test
    aper = answers(learned("aper", nouns, tiny_bert, adapter=None), test)
    simple = answers(learned("simplecil", nouns, tiny_bert), test)
    torch.testing.assert_close(aper, simple, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["aper", "fecam"])
def test_the_adapter_is_trained_on_the_first_task_only(name, nouns, tiny_bert):
    learner = make_learner(name, nouns, tiny_bert)
    reports = learner.learn()
    next(reports)
    before = {k: v.detach().clone() for k, v in learner.model.adapters[MAIN].tensors.items()}
    assert learner.num_steps == 2 * 3
    list(reports)
    assert learner.num_steps == 2 * 3
    now = learner.model.adapters[MAIN].tensors
    assert all(torch.equal(before[k], now[k]) for k in now)


# fecam


def fecam_by_hand(features, labels, query, diagonal, off_diagonal):
    distances = []
    for c in range(6):
        own = features[labels == c].double().numpy()
        sigma = np.cov(own.T)
        d = len(sigma)
        variance = np.mean([sigma[i, i] for i in range(d)])
        rest = np.mean([sigma[i, j] for i in range(d) for j in range(d) if i != j])
        for i in range(d):
            for j in range(d):
                sigma[i, j] += diagonal * variance if i == j else off_diagonal * rest
        scaled = [[sigma[i, j] / (sigma[i, i] * sigma[j, j]) ** 0.5 for j in range(d)]
                  for i in range(d)]  # fmt: skip
        x = query.double().numpy()
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        mean = own.mean(0) / np.linalg.norm(own.mean(0))
        inverse = np.linalg.inv(np.array(scaled))
        distances.append([(row - mean) @ inverse @ (row - mean) for row in x])
    return -torch.tensor(np.array(distances).T).float()


@pytest.mark.parametrize("off_diagonal", [0.0, 0.5])
def test_fecam_is_mahalanobis_with_shrunk_correlations(off_diagonal, nouns, tiny_bert):
    settings = {"diagonal": 2.0, "off_diagonal": off_diagonal, "adapter": None}
    learner = learned("fecam", nouns, tiny_bert, **settings)
    data, test = every_train(nouns), nouns.experiences[1].test
    naive = fecam_by_hand(
        tiny_bert(data.inputs).features,
        data.labels,
        tiny_bert(test.inputs).features,
        2.0,
        off_diagonal,
    )
    torch.testing.assert_close(answers(learner, test), naive, atol=1e-4, rtol=1e-3)


def test_fecam_of_great_shrinkage_is_the_nearest_mean_on_the_sphere(nouns, tiny_bert):
    data, test = every_train(nouns), nouns.experiences[1].test
    features = tiny_bert(data.inputs).features
    query = F.normalize(tiny_bert(test.inputs).features, dim=1)
    means = torch.stack([features[data.labels == c].mean(0) for c in range(6)])
    sphere = -torch.cdist(query, F.normalize(means, dim=1)).square()
    great = answers(learned("fecam", nouns, tiny_bert, adapter=None, diagonal=1e6), test)
    small = answers(learned("fecam", nouns, tiny_bert, adapter=None, diagonal=0.1), test)
    torch.testing.assert_close(great, sphere, atol=1e-4, rtol=1e-3)
    assert (small - sphere).abs().max() > 0.05


def test_a_covariance_of_nothing_becomes_the_identity():
    nothing = shrunk_covariance(torch.zeros(1, 3, 3), 1.0, 1.0)
    assert torch.equal(correlation(nothing)[0], torch.eye(3))


# slca


def test_slca_trains_on_the_tasks_own_classes_and_its_adapter_slowly(nouns, tiny_bert):
    learner, data = after(1, "slca", nouns, tiny_bert, slow=0.25)
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    own = logits_of(learner, data)[:, 2:4]
    torch.testing.assert_close(loss, F.cross_entropy(own, data.labels - 2))
    stepper = learner._new_stepper(10)
    rates = {
        id(tensor): group["lr"]
        for group in stepper.optimizer.param_groups
        for tensor in group["params"]
    }
    for name, tensor in stepper.parameters.items():
        assert rates[id(tensor)] == (1e-2 if name.startswith("head.") else 2.5e-3)


def test_slca_of_no_rate_leaves_the_adapter_where_it_was(nouns, tiny_bert):
    def moved(slow):
        learner, data = after(0, "slca", nouns, tiny_bert, slow=slow)
        names = [name for name in learner.model.parameters() if not name.startswith(HEAD)]
        before = {name: learner.model.parameters()[name].detach().clone() for name in names}
        train(learner, data)
        return drift(learner, before)

    assert moved(0.0) == 0
    assert 0 < moved(0.1) < moved(1.0)


def test_slca_divides_logits_by_the_mean_norm_over_tasks():
    logits = torch.randn(4, 5, generator=generator_of(0, "logits"))
    groups = [[0, 1], [3], [2, 4]]
    naive = torch.stack(
        [
            row / (sum(sum(row[c] ** 2 for c in group) ** 0.5 for group in groups) / 3)
            for row in logits
        ]
    )
    torch.testing.assert_close(normalised_logits(logits, groups), naive)


def test_slca_aligns_a_copy_of_the_head_on_samples_of_every_class(nouns, tiny_bert):
    settings = {"samples": 16, "epochs": 2, "alignment_rate": 0.1}
    learner, data = after(2, "slca", nouns, tiny_bert, **settings)
    strategy, model = learner.strategy, learner.model
    head = {k: v.detach().clone() for k, v in model.adapters[HEAD].tensors.items()}
    review = learner._summed(strategy.review, data)
    gaussians = Gaussians(**strategy.state["gaussians"]).pooled(Gaussians.of(review.sums))
    strategy.end_task(model, nouns.experiences[2].task, review)
    assert strategy.state["groups"] == [[0, 1], [2, 3], [4, 5]]
    batches = list(gaussians.batches(2, 16, generator_of(0, "slca", 2)))
    weight, bias = (head[k].clone().requires_grad_() for k in ("weight", "bias"))
    optimizer = torch.optim.SGD([weight, bias], 0.1, 0.9)
    for step, (features, labels) in enumerate(batches):
        logits = features @ weight.T + bias
        norms = [logits[:, 2 * t : 2 * t + 2].norm(dim=1, keepdim=True) for t in range(3)]
        loss = F.cross_entropy(logits / (sum(norms) / 3) / 0.1, labels)
        optimizer.param_groups[0]["lr"] = 0.05 * (1 + np.cos(np.pi * step / 12))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    aligned = model.adapters[ALIGNED].tensors
    assert len(batches) == 12
    torch.testing.assert_close(aligned["weight"], weight.detach(), atol=1e-4, rtol=1e-3)
    assert (aligned["weight"] - head["weight"]).abs().max() > 1e-3
    assert all(torch.equal(model.adapters[HEAD].tensors[k], head[k]) for k in head)
    assert not model.adapters[ALIGNED].trainable
    naive = F.linear(features_of(learner, data), aligned["weight"], aligned["bias"])
    torch.testing.assert_close(answers(learner, data), naive)


def test_slca_without_alignment_answers_with_the_head_that_was_trained(nouns, tiny_bert):
    learner = learned("slca", nouns, tiny_bert, epochs=0)
    test = nouns.experiences[0].test
    torch.testing.assert_close(answers(learner, test), logits_of(learner, test))
    other = answers(learned("slca", nouns, tiny_bert), test)
    assert (other - answers(learner, test)).abs().max() > 0.01


# ssiat


def test_ssiat_pays_cosface_over_the_tasks_classes(nouns, tiny_bert):
    learner, data = after(1, "ssiat", nouns, tiny_bert, scale=7.0, margin=0.2)
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    weight = learner.model.adapters[HEAD].tensors["weight"]
    losses = []
    for feature, label in zip(features_of(learner, data), data.labels.tolist(), strict=True):
        cosine = [F.cosine_similarity(feature, weight[c], dim=0) for c in (2, 3)]
        true, other = cosine[label - 2], cosine[3 - label]
        right = torch.exp(7.0 * (true - 0.2))
        losses.append(-torch.log(right / (right + torch.exp(7.0 * other))))
    torch.testing.assert_close(loss, torch.stack(losses).mean(), atol=1e-5, rtol=1e-4)
    free, _ = after(1, "ssiat", nouns, tiny_bert, scale=7.0)
    assert free.strategy.step(free.model, data, NO_REPLAY).loss != loss


@pytest.mark.parametrize("bandwidth", [1.0, float("inf")])
def test_ssiat_moves_old_means_by_the_drift_of_the_rows_near_them(bandwidth, nouns, tiny_bert):
    learner, data = after(1, "ssiat", nouns, tiny_bert, bandwidth=bandwidth, epochs=0)
    strategy, model = learner.strategy, learner.model
    old = strategy.state["gaussians"]["mean"].clone()
    train(learner, data)
    before, now = features_of(learner, data, [BEFORE]), features_of(learner, data)
    assert (now - before).abs().max() > 0.01
    strategy.end_task(model, nouns.experiences[1].task, learner._summed(strategy.review, data))
    assert BEFORE not in model.adapters
    moved = strategy.state["gaussians"]["mean"]
    for c in (0, 1):
        weights = torch.exp(-(before - old[c]).square().sum(1) / (2 * bandwidth**2))
        drifted = sum(w * (new - past) for w, new, past in zip(weights, now, before, strict=True))
        expected = old[c] + drifted / weights.sum()
        torch.testing.assert_close(moved[c], expected, atol=1e-4, rtol=1e-3)
        if bandwidth == float("inf"):
            torch.testing.assert_close(moved[c], old[c] + (now - before).mean(0), atol=1e-4, rtol=0)
    for c in (2, 3):
        torch.testing.assert_close(moved[c], now[data.labels == c].mean(0), atol=1e-4, rtol=1e-4)


def test_ssiat_without_an_adapter_has_no_drift_and_its_refit_moves_the_head(nouns, tiny_bert):
    learner, data = after(1, "ssiat", nouns, tiny_bert, adapter=None)
    old = learner.strategy.state["gaussians"]["mean"].clone()
    head = learner.model.adapters[HEAD].tensors["weight"].detach().clone()
    review = learner._summed(learner.strategy.review, data)
    learner.strategy.end_task(learner.model, nouns.experiences[1].task, review)
    assert torch.equal(learner.strategy.state["gaussians"]["mean"][:2], old)
    refitted = learner.model.adapters[HEAD].tensors["weight"]
    assert refitted.requires_grad
    assert (refitted - head).abs().max() > 1e-3
    gaussians = Gaussians(**learner.strategy.state["gaussians"])
    rows, labels = gaussians.sample(50, generator_of(0, "other"))

    def loss(weight):
        cosines = F.normalize(rows, dim=1) @ F.normalize(weight, dim=1).T
        return F.cross_entropy(20 * cosines, labels)

    assert loss(refitted) < 0.9 * loss(head)


# safe


def test_safe_transfer_is_over_the_correlation_of_unit_features(nouns, tiny_bert):
    learner, data = after(0, "safe", nouns, tiny_bert, diagonal=0.3, redundancy=5.0)
    train(learner, data)
    output = learner.strategy.step(learner.model, data, NO_REPLAY)
    ours, theirs = features_of(learner, data), tiny_bert(data.inputs).features
    ours, theirs = (x / x.norm(dim=1, keepdim=True) for x in (ours, theirs))
    correlation = sum(torch.outer(a, b) for a, b in zip(ours, theirs, strict=True)) / len(data)
    diagonal = sum((correlation[i, i] - 1) ** 2 for i in range(32))
    rest = sum(correlation[i, j] ** 2 for i in range(32) for j in range(32) if i != j)
    weight = learner.model.adapters[HEAD].tensors["weight"]
    cosines = F.cosine_similarity(ours[:, None], weight[None], dim=2)
    plain = F.cross_entropy(10 * cosines, data.labels)
    naive = plain + 0.3 * diagonal + 5.0 * rest
    torch.testing.assert_close(output.loss, naive, atol=1e-4, rtol=1e-4)


def test_safe_transfer_moves_the_slow_learner_by_either_term(nouns, tiny_bert):
    def terms(**weights):
        settings = {"diagonal": 0.0, "redundancy": 0.0, **weights}
        learner, data = after(0, "safe", nouns, tiny_bert, **settings)
        train(learner, data)
        return transfer(features_of(learner, data), tiny_bert(data.inputs).features)

    free = terms()
    assert terms(diagonal=100.0)[0] < free[0]
    assert terms(redundancy=1000.0)[1] < free[1]


def test_safe_fast_learner_is_aligned_and_cross_classified(nouns, tiny_bert):
    learner, data = after(1, "safe", nouns, tiny_bert, alignment=3.0, cross=0.7)
    train(learner, data)
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    slow, fast = features_of(learner, data, [MAIN]), features_of(learner, data, [FAST])
    assert (slow - fast).abs().max() > 1e-3
    w_fast = learner.model.adapters[HEAD].tensors["weight"]
    w_slow = learner.model.adapters[SLOW_HEAD].tensors["weight"]

    def classified(rows, labels, weight):
        logits = torch.zeros(len(rows), 4)
        for n, row in enumerate(rows):
            for c, other in enumerate(weight):
                logits[n, c] = 10 * F.cosine_similarity(row, other, dim=0)
        return F.cross_entropy(logits, labels)

    labels = torch.cat([torch.tensor([0, 1]), data.labels])
    plain = classified(fast, data.labels, w_fast)
    crossed = classified(torch.cat([w_slow[:2], slow]), labels, w_fast)
    crossed = crossed + classified(torch.cat([w_fast[:2], fast]), labels, w_slow)
    apart = (1 - F.cosine_similarity(slow, fast)).mean()
    naive = plain + 3.0 * apart + 0.7 * crossed
    torch.testing.assert_close(loss, naive, atol=1e-4, rtol=1e-4)


def test_safe_trains_the_slow_learner_once_and_ties_the_fast_one_to_it(nouns, tiny_bert):
    def run(alignment):
        learner, data = after(1, "safe", nouns, tiny_bert, alignment=alignment, cross=0.0)
        slow = {k: v.clone() for k, v in learner.model.adapters[MAIN].tensors.items()}
        assert {name.split(".")[0] for name in learner.model.parameters()} == {FAST, HEAD}
        train(learner, data)
        now = learner.model.adapters[MAIN].tensors
        assert all(torch.equal(slow[k], now[k]) for k in now)
        features = [features_of(learner, data, [name]) for name in (MAIN, FAST)]
        return (1 - F.cosine_similarity(*features)).mean()

    assert run(500.0) < 0.5 * run(0.0)


def test_safe_merges_two_ridge_regressions_by_their_entropies(nouns, tiny_bert):
    learner = learned("safe", nouns, tiny_bert, sharpness=4.0)
    test, state = nouns.experiences[0].test, learner.strategy.state
    answer = []
    for adapter, name in ((MAIN, "slow"), (FAST, "fast")):
        h = (features_of(learner, test, [adapter]) @ state["projection"]).relu()
        answer.append(h @ state[name])
    naive = []
    for slow, fast in zip(*answer, strict=True):
        entropy = [-sum(p * p.log() for p in each.softmax(0)) for each in (slow, fast)]
        weight = torch.tensor([-4.0 * each for each in entropy]).softmax(0)
        naive.append(weight[0] * slow + weight[1] * fast)
    torch.testing.assert_close(answers(learner, test), torch.stack(naive), atol=1e-4, rtol=1e-4)
    learner.strategy.sharpness = 0.0
    mean = (answer[0] + answer[1]) / 2
    torch.testing.assert_close(answers(learner, test), mean, atol=1e-4, rtol=1e-4)


def test_safe_fast_sums_begin_with_what_the_slow_learner_saw(nouns, tiny_bert):
    learner, _ = after(1, "safe", nouns, tiny_bert)
    sums = learner.strategy.state["sums"]
    assert torch.equal(sums["slow.gram_fit"], sums["fast.gram_fit"])
    learner = learned("safe", nouns, tiny_bert)
    sums = learner.strategy.state["sums"]
    assert not torch.equal(sums["slow.gram_fit"], sums["fast.gram_fit"])


# mos


def test_mos_head_learns_at_a_tenth_of_the_adapters_rate(nouns, tiny_bert):
    learner, _ = after(1, "mos", nouns, tiny_bert)
    optimizer = learner._new_stepper(1).optimizer
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
        review = learner._summed(learner.strategy.review, data)
        learner.strategy.end_task(learner.model, nouns.experiences[1].task, review)
        return (learner.model.adapters[HEAD].tensors["weight"] - before).abs().max()

    assert head(0) == 0
    assert head(5) > 1e-3


# settings


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("slda", {"shrinkage": 0.0}, "strategy.shrinkage"),
        ("slda", {"shrinkage": 1.5}, "strategy.shrinkage"),
        ("fecam", {"diagonal": -1.0}, "strategy.diagonal"),
        ("slca", {"temperature": 0.0}, "strategy.temperature"),
        ("slca", {"slow": -0.1}, "strategy.slow"),
        ("ssiat", {"bandwidth": 0.0}, "strategy.bandwidth"),
        ("ssiat", {"margin": -0.1}, "strategy.margin"),
        ("safe", {"projection": 0}, "strategy.projection"),
        ("safe", {"cross": -1.0}, "strategy.cross"),
        ("mos", {"merging": 1.5}, "strategy.merging"),
        ("mos", {"contrast": -1.0}, "strategy.contrast"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_key(name, settings, key, nouns, tiny_bert):
    with pytest.raises(ValueError, match=key):
        make_learner(name, nouns, tiny_bert, **settings)
