import torch
from sklearn.cluster import KMeans

from lamina.core import generator_of
from lamina.memory.clusters import _spread, k_means


def blobs(centres, per_blob=30, spread=0.1):
    generator = generator_of(0, "blobs")
    noise = torch.randn(len(centres), per_blob, centres.shape[1], generator=generator)
    return (centres[:, None] + spread * noise).flatten(0, 1)


def inertia(rows, centres):
    return torch.cdist(rows, centres).min(dim=1).values.square().sum()


def test_from_the_same_start_it_ends_where_scikit_learn_ends():
    rows = torch.randn(200, 6, generator=generator_of(0, "rows"))
    start = _spread(rows, 5, generator_of(0, "k-means"))
    ours = k_means(rows, 5, generator_of(0, "k-means"))
    theirs = KMeans(5, init=start.numpy(), n_init=1, tol=0.0, algorithm="lloyd").fit(rows.numpy())
    torch.testing.assert_close(ours, torch.from_numpy(theirs.cluster_centers_).float())


def test_it_finds_separate_clusters_from_any_start():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    rows = blobs(centres)
    for seed in range(5):
        found = k_means(rows, 4, generator_of(seed, "k-means"))
        assert torch.cdist(centres, found).min(dim=1).values.max() < 0.1


def test_more_centres_explain_more():
    rows = torch.randn(100, 4, generator=generator_of(0, "rows"))
    errors = [inertia(rows, k_means(rows, k, generator_of(0, "k"))) for k in (1, 4, 16)]
    assert errors[0] > errors[1] > errors[2]
    torch.testing.assert_close(k_means(rows, 1, generator_of(0, "k"))[0], rows.mean(0))


def test_it_starts_from_rows_that_are_not_the_same():
    far = torch.tensor([[0.0, 0.0]] * 50 + [[1000.0, 1000.0]])
    for seed in range(5):
        start = _spread(far, 2, generator_of(seed, "start"))
        assert not torch.equal(start[0], start[1])


def test_fewer_rows_than_centres_and_equal_rows_are_fine():
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    found = k_means(rows, 5, generator_of(0, "k"))
    assert sorted(found.tolist()) == rows.tolist()
    assert k_means(torch.ones(4, 3), 2, generator_of(0, "k")).tolist() == [[1.0] * 3] * 2


def test_the_same_generator_gives_the_same_centres_and_the_rows_stay():
    rows = torch.randn(60, 3, generator=generator_of(0, "rows"))
    before = rows.clone()
    first, second = (k_means(rows, 4, generator_of(7, "k")) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(rows, before)
