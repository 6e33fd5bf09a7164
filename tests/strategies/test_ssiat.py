"""SSIAT: its losses, state and answers against naive versions."""

import pytest
import torch
import torch.nn.functional as F

from lamina.adapters.model import HEAD
from lamina.core import generator_of
from lamina.memory.gaussian import Gaussians
from lamina.strategies.ssiat import BEFORE
from nouns import NO_REPLAY, after
from prototype_cases import features_of, train


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
    strategy.end_task(model, nouns.experiences[1].task, learner.summarise(strategy.review, data))
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
    review = learner.summarise(learner.strategy.review, data)
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
