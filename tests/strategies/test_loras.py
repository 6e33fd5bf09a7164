"""A LoRA per task, constrained, designed, scaled or shared: losses, subspaces and updates against
naive versions."""

import numpy as np
import pytest
import torch

from lamina.memory.subspace import Subspace
from lamina.training.settings import TrainingSettings
from lora_cases import descend, shaken
from nouns import NO_REPLAY, after, make_learner


@pytest.mark.parametrize(
    ("name", "neutral"), [("n_lora", {"sparsity": 0.0}), ("c_lora", {"strength": 0.0})]
)
def test_without_its_penalty_it_is_olora_without_its_own(name, neutral, nouns, tiny_bert):
    def run(name, **settings):
        learner = make_learner(name, nouns, tiny_bert, **settings)
        reports = list(learner.learn())
        return [report.test for report in reports], learner.model.parameters()

    rows, parameters = run(name, **neutral)
    expected_rows, expected = run("olora", orthogonality=0.0)
    assert rows == expected_rows
    assert all(torch.equal(parameters[key], expected[key]) for key in expected)


@pytest.mark.parametrize(("name", "weight"), [("c_lora", "strength"), ("n_lora", "sparsity")])
def test_a_relative_penalty_has_no_gradient_of_the_loss_it_is_told_in(
    name, weight, nouns, tiny_bert
):
    def head_gradient(value):
        learner, data = after(1, name, nouns, tiny_bert)
        setattr(learner.strategy, weight, value)
        shaken(learner)
        head = learner.model.parameters()["head.weight"]
        loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
        return torch.autograd.grad(loss, head)[0]

    torch.testing.assert_close(head_gradient(0.0), head_gradient(50.0))


@pytest.mark.parametrize(
    ("name", "weight", "metric"),
    [
        ("olora", "orthogonality", "overlap"),
        ("c_lora", "strength", "overlap"),
        ("n_lora", "sparsity", "l1_norm"),
        ("tree_lora", "strength", "distance"),
    ],
)
def test_a_penalty_holds_at_its_default_weight(name, weight, metric, nouns, tiny_bert):
    def size(**settings):
        learner, data = after(1, name, nouns, tiny_bert, **settings)
        descend(learner, data)
        return learner.strategy.step(learner.model, data, NO_REPLAY).metrics[metric]

    assert size() < 0.9 * size(**{weight: 0.0})


def naive_gpm(bases, matrix, threshold):
    """One update of Gradient Projection Memory, basis vector by basis vector."""
    total = (matrix**2).sum()
    basis = bases.copy()
    left, values, _ = np.linalg.svd(matrix - basis @ basis.T @ matrix)
    held = ((basis @ basis.T @ matrix) ** 2).sum()
    for direction, value in zip(left.T, values, strict=True):
        if held / total >= threshold:
            break
        basis = np.column_stack([basis, direction])
        held += value**2
    return basis


def test_dual_gpm_holds_what_gpm_holds_and_stores_the_smaller_basis():
    rng = np.random.default_rng(0)
    basis, space = np.zeros((10, 0)), Subspace(torch.zeros(10, 0))
    kinds = []
    for threshold in (0.9, 0.99, 0.999, 0.9999):
        half = rng.standard_normal((10, 3))
        matrix = half @ half.T
        basis = naive_gpm(basis, matrix, threshold)
        space = space.grown(torch.from_numpy(matrix), threshold)
        outside = space.outside(torch.eye(10, dtype=torch.float64))
        expected = np.eye(10) - basis @ basis.T
        np.testing.assert_allclose(outside.numpy(), expected, atol=1e-5)
        assert space.basis.shape[1] <= 5
        kinds.append(space.is_complement)
    assert kinds[0] is False
    assert kinds[-1] is True


@pytest.mark.parametrize("name", ["n_lora", "inflora", "c_lora", "sd_lora", "cl_lora", "dual_lora"])
def test_it_learns_pictures_too(name, shapes, tiny_vit):
    training = TrainingSettings(epochs=8, batch_size=5, learning_rate=1e-2)
    # A model of 32 features needs larger entries than one that is used.
    settings = {"sparsity": 100.0} if name == "n_lora" else {}
    learner = make_learner(name, shapes, tiny_vit, training=training, **settings)
    assert next(learner.learn()).test[0] > 0.5


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("n_lora", {"sparsity": -1.0}, "strategy.sparsity"),
        ("n_lora", {"product": "outer"}, "strategy.product"),
        ("c_lora", {"strength": -1.0}, "strategy.strength"),
        ("inflora", {"threshold": 1.5}, "strategy.threshold"),
        ("inflora", {"num_tasks": 0}, "strategy.num_tasks"),
        ("sd_lora", {"magnitude": 0.0}, "strategy.magnitude"),
        ("cl_lora", {"temperature": 0.0}, "strategy.temperature"),
        ("cl_lora", {"shared_layers": 1.0}, "strategy.shared_layers"),
        ("dual_lora", {"threshold": -0.1}, "strategy.threshold"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_key(name, settings, key, nouns, tiny_bert):
    with pytest.raises(ValueError, match=key):
        make_learner(name, nouns, tiny_bert, **settings)
