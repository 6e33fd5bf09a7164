"""AdapterCL: its losses, state and answers against naive versions."""

import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA

from adapter_cases import finished
from lamina.core import generator_of
from lamina.strategies.adaptercl import principal_density, surprise_of
from nouns import NO_REPLAY, after, make_learner


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
