"""How far learning a task moves what is said, and whether that goes with forgetting."""

from math import inf

import pytest
import torch
from scipy.stats import pearsonr, spearmanr

from lamina.evaluation.drift import drift, drift_and_forgetting


def test_drift_is_the_mean_divergence_of_rows():
    before, after = torch.randn(5, 4), torch.randn(5, 4)
    p, q = (torch.distributions.Categorical(logits=each) for each in (before, after))
    expected = float(torch.distributions.kl_divergence(p, q).mean())
    assert drift(before, after) == pytest.approx(expected, rel=1e-5)
    assert drift(before, before + 3.0) == pytest.approx(0.0, abs=1e-9)


def test_classes_that_cannot_be_meant_before_and_after_are_no_drift():
    before = torch.tensor([[1.0, 2.0, -inf]])
    assert drift(before, before + 1.0) == pytest.approx(0.0, abs=1e-9)
    assert drift(before, torch.tensor([[1.0, 2.0, 3.0]])) is None
    assert drift(torch.tensor([[1.0, 2.0, 3.0]]), before) is None


def test_no_rows_and_a_single_class_have_no_drift():
    assert drift(torch.zeros(0, 3), torch.zeros(0, 3)) is None
    assert drift(torch.zeros(4, 1), torch.zeros(4, 1)) is None


def test_the_correlations_over_trials_are_scipys():
    drifts, forgettings = [0.1, 0.4, 0.4, 0.9, 0.2], [0.0, 0.3, 0.1, 0.8, 0.1]
    rows = [{"drift": x, "forgetting": y} for x, y in zip(drifts, forgettings, strict=True)]
    unknown = [{"drift": None, "forgetting": 0.5}, {"forgetting": 0.5}]
    found = drift_and_forgetting(rows + unknown)
    assert found.num == 5
    assert found.pearson == pytest.approx(pearsonr(drifts, forgettings).statistic)
    assert found.spearman == pytest.approx(spearmanr(drifts, forgettings).statistic)


def test_two_trials_and_trials_that_are_all_alike_do_not_correlate():
    rows = [{"drift": 0.1, "forgetting": 0.2}, {"drift": 0.3, "forgetting": 0.1}]
    assert drift_and_forgetting(rows).pearson is None
    alike = [{"drift": 0.1, "forgetting": each / 10} for each in range(4)]
    assert (drift_and_forgetting(alike).pearson, drift_and_forgetting(alike).spearman) == (
        None,
        None,
    )
