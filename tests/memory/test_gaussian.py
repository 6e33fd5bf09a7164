import numpy as np
import pytest
import torch
from sklearn.covariance import empirical_covariance

from lamina.core import generator_of
from lamina.memory.gaussian import Gaussians, class_means, class_sums, moments, plus_classes
from lamina.training.checkpoint import pack, unpack


def features_and_labels(rows=40, dim=5, classes=3, name="rows", shift=0.0):
    generator = generator_of(0, name)
    features = torch.randn(rows, dim, generator=generator) @ torch.randn(
        dim, dim, generator=generator
    )
    labels = torch.randint(0, classes, (rows,), generator=generator)
    return features + shift + labels[:, None], labels


def gaussians_of(features, labels, num_classes):
    return Gaussians.of(moments(features, labels, num_classes))


def test_moments_give_each_classs_mean_and_unbiased_covariance():
    features, labels = features_and_labels()
    gaussians = gaussians_of(features, labels, 3)
    for label in range(3):
        own = features[labels == label]
        biased = torch.from_numpy(empirical_covariance(own.double().numpy())).float()
        assert gaussians.count[label] == len(own)
        torch.testing.assert_close(gaussians.mean[label], own.mean(0))
        expected = biased * len(own) / (len(own) - 1)
        torch.testing.assert_close(gaussians.covariance[label], expected, atol=1e-4, rtol=1e-4)


def test_moments_of_batches_add_up_to_those_of_all_rows():
    features, labels = features_and_labels()
    parts = [moments(features[rows], labels[rows], 3) for rows in (slice(0, 7), slice(7, 40))]
    whole = moments(features, labels, 3)
    for name, value in whole.items():
        torch.testing.assert_close(parts[0][name] + parts[1][name], value, atol=1e-4, rtol=1e-4)


def test_a_covariance_survives_a_mean_far_from_zero():
    features, labels = features_and_labels(rows=200, shift=30.0)
    near, _ = features_and_labels(rows=200)
    far, close = gaussians_of(features, labels, 3), gaussians_of(near, labels, 3)
    torch.testing.assert_close(far.covariance, close.covariance, atol=2e-3, rtol=2e-3)


def test_a_class_of_one_row_has_no_spread_and_one_of_none_is_not_there():
    features = torch.tensor([[1.0, 2.0], [3.0, 5.0], [4.0, 7.0]])
    gaussians = gaussians_of(features, torch.tensor([0, 2, 2]), 4)
    assert gaussians.count.tolist() == [1, 0, 2, 0]
    assert gaussians.num_seen == 2
    assert torch.equal(gaussians.covariance[0], torch.zeros(2, 2))
    assert torch.equal(gaussians.mean[1], torch.zeros(2))
    _, labels = gaussians.sample(3, generator_of(0, "draw"))
    assert labels.tolist() == [0, 0, 0, 2, 2, 2]


def test_samples_have_the_classes_own_moments():
    features, labels = features_and_labels()
    gaussians = gaussians_of(features, labels, 3)
    drawn, drawn_labels = gaussians.sample(20_000, generator_of(0, "draw"))
    again = gaussians_of(drawn, drawn_labels, 3)
    largest = gaussians.covariance.abs().max()
    assert (again.mean - gaussians.mean).abs().max() < 0.05 * largest.sqrt()
    assert (again.covariance - gaussians.covariance).abs().max() < 0.05 * largest


def test_samples_depend_on_the_generator_and_the_ridge_alone():
    features, labels = features_and_labels(rows=6)
    gaussians = gaussians_of(features, labels, 3)
    first, _ = gaussians.sample(4, generator_of(0, "draw"))
    second, _ = gaussians.sample(4, generator_of(0, "draw"))
    wide, _ = gaussians.sample(4, generator_of(0, "draw"), ridge=10.0)
    assert torch.equal(first, second)
    assert (first - wide).abs().max() > 0.5


def test_rounding_below_zero_is_no_spread_instead_of_an_error():
    covariance = torch.diag(torch.tensor([4.0, -0.01, 1.0]))[None]
    gaussians = Gaussians(torch.tensor([5.0]), torch.zeros(1, 3), covariance)
    drawn, _ = gaussians.sample(2000, generator_of(0, "draw"))
    assert drawn.std(dim=0).tolist() == pytest.approx([2.0, 0.01, 1.0], rel=0.1)


def test_batches_are_new_draws_shuffled_and_as_many_as_classes_in_each_epoch():
    features, labels = features_and_labels()
    gaussians = gaussians_of(features, labels, 5)
    batches = list(gaussians.batches(2, 8, generator_of(0, "draw")))
    assert [len(each) for each, _ in batches] == [8] * 6
    for epoch in (batches[:3], batches[3:]):
        assert torch.cat([each for _, each in epoch]).bincount().tolist() == [8, 8, 8]
    assert any(len(each.unique()) > 1 for _, each in batches)
    assert not torch.equal(batches[0][0], batches[3][0])


def test_updated_replaces_the_classes_that_the_newer_has_seen():
    features, labels = features_and_labels(classes=2)
    newer_rows, newer_labels = features_and_labels(classes=2, name="newer")
    first = gaussians_of(features, labels, 2)
    newer = gaussians_of(newer_rows, newer_labels + 1, 3)
    both = first.updated(newer)
    assert torch.equal(both.mean[0], first.mean[0])
    assert torch.equal(both.covariance[1:], newer.covariance[1:])
    assert both.count.tolist() == [first.count[0], newer.count[1], newer.count[2]]


def test_pooled_is_what_all_rows_together_give():
    features, labels = features_and_labels(classes=2)
    newer_rows, newer_labels = features_and_labels(classes=2, name="newer", shift=3.0)
    newer_labels = newer_labels + 1
    pooled = gaussians_of(features, labels, 2).pooled(gaussians_of(newer_rows, newer_labels, 4))
    whole = gaussians_of(torch.cat([features, newer_rows]), torch.cat([labels, newer_labels]), 4)
    assert torch.equal(pooled.count, whole.count)
    torch.testing.assert_close(pooled.mean, whole.mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pooled.covariance, whole.covariance, atol=1e-4, rtol=1e-4)


def test_a_state_can_hold_them():
    features, labels = features_and_labels()
    gaussians = gaussians_of(features, labels, 3)
    restored = Gaussians(**unpack(pack(dict(vars(gaussians)))))
    assert torch.equal(restored.covariance, gaussians.covariance)


def test_class_sums_grow_with_classes_and_give_means():
    features, labels = features_and_labels(classes=2)
    past = class_sums(features, labels, 2)
    new = class_sums(features, labels + 1, 3)
    total = plus_classes(new, past)
    assert new["count"].sum() == len(labels)
    everything = torch.cat([features, features]).numpy()
    every_label = torch.cat([labels, labels + 1]).numpy()
    for label in range(3):
        expected = np.mean(everything[every_label == label], axis=0)
        assert class_means(total)[label].tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    assert class_means(class_sums(features, labels, 4))[3].tolist() == [0.0] * 5
