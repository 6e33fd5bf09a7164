"""Prototypes and Gaussian memory: each method's classifier, loss or merge against a naive version
written from the paper's equations."""

from dataclasses import replace

import pytest
import torch

from lamina.adapters.model import MAIN
from lamina.strategies.fecam import correlation, shrunk_covariance
from nouns import after, make_learner
from prototype_cases import answers, learned


@pytest.mark.parametrize("name", ["ncm", "slda"])
def test_without_task_boundaries_the_sums_are_the_same(name, nouns, tiny_bert):
    bounded = learned(name, nouns, tiny_bert)
    free = learned(name, replace(nouns, scenario="task_free"), tiny_bert)
    for key, value in bounded.strategy.state.items():
        torch.testing.assert_close(free.strategy.state[key], value, atol=1e-3, rtol=1e-4)
    test = nouns.experiences[2].test
    torch.testing.assert_close(answers(free, test), answers(bounded, test), atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize("name", ["ncm", "slda", "simplecil", "aper", "fecam"])
def test_classes_without_a_row_never_win(name, nouns, tiny_bert):
    learner, data = after(1, name, nouns, tiny_bert)
    learner.model.grow_head(6)
    learner.strategy.end_task(
        learner.model,
        nouns.experiences[2].task,
        learner.summarise(learner.strategy.review, nouns.experiences[2].train),
    )
    logits = answers(learner, data)
    assert torch.isinf(logits[:, 2:4]).all()
    assert logits[:, [0, 1, 4, 5]].isfinite().all()


@pytest.mark.parametrize("name", ["aper", "fecam"])
def test_the_adapter_is_trained_on_the_first_task_only(name, nouns, tiny_bert):
    learner = make_learner(name, nouns, tiny_bert)
    reports = learner.learn()
    next(reports)
    before = {k: v.detach().clone() for k, v in learner.model.adapters[MAIN].tensors.items()}
    assert learner.num_steps == 2 * 3
    list(reports)
    assert learner.num_steps == 2 * 3
    now = learner.model.adapters[MAIN].tensors
    assert all(torch.equal(before[k], now[k]) for k in now)


def test_a_covariance_of_nothing_becomes_the_identity():
    nothing = shrunk_covariance(torch.zeros(1, 3, 3), 1.0, 1.0)
    assert torch.equal(correlation(nothing)[0], torch.eye(3))


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("slda", {"shrinkage": 0.0}, "strategy.shrinkage"),
        ("slda", {"shrinkage": 1.5}, "strategy.shrinkage"),
        ("fecam", {"diagonal": -1.0}, "strategy.diagonal"),
        ("slca", {"temperature": 0.0}, "strategy.temperature"),
        ("slca", {"slow": -0.1}, "strategy.slow"),
        ("ssiat", {"bandwidth": 0.0}, "strategy.bandwidth"),
        ("ssiat", {"margin": -0.1}, "strategy.margin"),
        ("safe", {"projection": 0}, "strategy.projection"),
        ("safe", {"cross": -1.0}, "strategy.cross"),
        ("mos", {"merging": 1.5}, "strategy.merging"),
        ("mos", {"contrast": -1.0}, "strategy.contrast"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_key(name, settings, key, nouns, tiny_bert):
    with pytest.raises(ValueError, match=key):
        make_learner(name, nouns, tiny_bert, **settings)
