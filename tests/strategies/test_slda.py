"""SLDA: its losses, state and answers against naive versions."""

import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from prototype_cases import answers, every_train, learned


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
