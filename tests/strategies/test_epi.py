"""EPI: its losses, state and answers against naive versions."""

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from lamina.core import Batch, Summary
from nouns import NO_REPLAY, after, make_learner
from prompt_cases import head_of


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
