"""SAFE: its losses, state and answers against naive versions."""

import torch
import torch.nn.functional as F

from lamina.adapters.model import HEAD, MAIN
from lamina.strategies.safe import FAST, SLOW_HEAD, transfer
from nouns import NO_REPLAY, after
from prototype_cases import answers, features_of, learned, train


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
