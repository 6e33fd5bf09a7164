"""OVOR: its losses, state and answers against naive versions."""

import torch
import torch.nn.functional as F
from sklearn.neighbors import NearestNeighbors

from lamina.adapters.model import HEAD
from lamina.backbones.overlay import Overlay
from lamina.core import generator_of
from lamina.strategies.ovor import (
    energy_bounds,
    outermost,
    paired_batches,
    virtual_outliers,
)
from nouns import after, make_learner, nouns_stream
from recent_prompt_cases import energies, learned, predict, small


def test_ovor_finds_the_outermost_as_nearest_neighbours_of_scikit_learn():
    generator = generator_of(0)
    features = torch.randn(30, 6, generator=generator)
    points = torch.randn(40, 6, generator=generator)
    searcher = NearestNeighbors(n_neighbors=4).fit(F.normalize(features).numpy())
    distances, _ = searcher.kneighbors(F.normalize(points).numpy())
    theirs = set(distances[:, 3].argsort()[-7:].tolist())
    assert set(outermost(points, features, 7, 4).tolist()) == theirs


def test_ovor_outliers_surround_the_boundary_and_lie_further_out_than_it():
    features = torch.randn(80, 8, generator=generator_of(0)) + 4
    outliers = virtual_outliers(features, 25, generator_of(1), 10, 0.5)
    assert outliers.shape == (25, 8)
    centres = features[outermost(features, features, 50, 10)]
    assert torch.cdist(outliers, centres).amin(dim=1).max() < 5 * 0.5 * 8**0.5
    closest = {
        name: torch.cdist(F.normalize(points), F.normalize(features)).kthvalue(10, dim=1).values
        for name, points in (("inside", features), ("outside", outliers))
    }
    assert closest["outside"].min() > closest["inside"].mean()


def test_ovor_uses_every_feature_and_every_outlier_once_an_epoch():
    plan = paired_batches(300, 70, 2, generator_of(0))
    assert len(plan) == 2 * 3
    for half in (plan[:3], plan[3:]):
        assert sorted(torch.cat([own for own, _ in half]).tolist()) == list(range(300))
        assert sorted(torch.cat([out for _, out in half]).tolist()) == list(range(70))


def test_ovor_regularisation_is_the_huber_of_energies_out_of_bounds():
    inside = torch.tensor([[20.0, 1.0], [3.0, 2.0]])
    outside = torch.tensor([[1.0, 0.5], [4.0, 4.0], [9.0, 0.0]])

    def huber(x):
        return 0.5 * x**2 if x < 1 else x - 0.5

    def energy(row):
        return -float(row.exp().sum().log())

    high = [huber(max(0.0, energy(row) + 15.0)) for row in inside]
    low = [huber(max(0.0, -3.0 - energy(row))) for row in outside]
    naive = torch.tensor(sum(high) / 2 + sum(low) / 3)
    torch.testing.assert_close(energy_bounds(inside, outside, -15.0, -3.0), naive)


def test_ovor_regularisation_parts_the_energies_and_moves_the_tasks_rows_only(nouns, tiny_bert):
    def run(weight):
        learner, data = after(
            1, "ovor", nouns, tiny_bert, **small("ovor", regularisation=weight, neighbours=3)
        )
        learned(learner, data)
        before = {k: v.detach().clone() for k, v in learner.model.adapters[HEAD].tensors.items()}
        review = learner.summarise(learner.strategy.review, data)
        learner.strategy.end_task(learner.model, nouns.experiences[1].task, review)
        head = learner.model.adapters[HEAD].tensors
        assert torch.equal(head["weight"][:2], before["weight"][:2])
        assert not torch.equal(head["weight"][2:], before["weight"][2:])
        outliers = virtual_outliers(review["features"], 20, generator_of(9), 3, 1.0)
        with torch.no_grad():
            inside, outside = energies(learner, data, outliers, [2, 3])
        return inside, outside

    plain, bounded = run(0.0), run(3.0)
    assert bounded[0] < plain[0] - 0.1
    assert bounded[1] - bounded[0] > plain[1] - plain[0]


def test_ovor_is_one_prompt_of_keys_and_values_in_two_places(minilm):
    learner = make_learner("ovor", nouns_stream(minilm), minilm, **small("ovor", e_length=6))
    data = learner.stream.experiences[0].train
    learner.model.grow_head(2)
    tensors = learner.model.adapters["prompt"].tensors
    assert tensors["g"].shape == (1, 2, 2, 384)
    assert tensors["e"].shape == (2, 2, 3, 384)
    places = {0: tensors["g"][0], 1: tensors["e"][0], 2: tensors["e"][1]}
    overlay = Overlay(prefixes={layer: [(own[0], own[1])] for layer, own in places.items()})
    logits = learner.model.logits(minilm(data.inputs, overlay).features)
    torch.testing.assert_close(predict(learner, data), logits)
