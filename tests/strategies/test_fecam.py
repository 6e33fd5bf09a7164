"""FeCAM: its losses, state and answers against naive versions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from prototype_cases import answers, every_train, learned


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
