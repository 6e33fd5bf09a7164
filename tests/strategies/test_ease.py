"""EASE: its losses, state and answers against naive versions."""

import torch
import torch.nn.functional as F

from adapter_cases import ROWS, finished
from lamina.adapters.model import HEAD
from lamina.core import generator_of
from lamina.strategies.ease import complete
from nouns import NO_REPLAY, after


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
