"""GPM: its losses, state and answers against naive versions."""

from dataclasses import replace

import pytest
import torch

from classic_cases import SGD, learn_on
from lamina.adapters.base import grouped_linear
from lamina.adapters.model import MAIN
from lamina.core import generator_of
from lamina.strategies.gpm import extended, inputs_read
from nouns import after


def test_gpm_basis_is_that_of_the_singular_vectors_of_the_inputs():
    generator = generator_of(0, "gpm")
    scale = torch.tensor([5.0, 3.0, 1.0, 0.1, 0.01, 0.0])
    first = torch.randn(6, 40, generator=generator) * scale[:, None]
    left, values, _ = torch.linalg.svd(first, full_matrices=False)
    k = 0
    while values[:k].square().sum() < 0.97 * first.square().sum():
        k += 1
    basis = extended(torch.zeros(6, 0), first @ first.T, 0.97)
    assert basis.shape == (6, k)
    torch.testing.assert_close(basis @ basis.T, left[:, :k] @ left[:, :k].T, atol=1e-4, rtol=1e-4)
    second = torch.randn(6, 40, generator=generator) * scale.flip(0)[:, None]
    rest = second - basis @ (basis.T @ second)
    left, values, _ = torch.linalg.svd(rest, full_matrices=False)
    held = (basis.T @ second).square().sum()
    n = 0
    while held + values[:n].square().sum() < 0.97 * second.square().sum():
        n += 1
    both = extended(basis, second @ second.T, 0.97)
    assert both.shape == (6, k + n)
    torch.testing.assert_close(both.T @ both, torch.eye(k + n), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        both[:, k:] @ both[:, k:].T, left[:, :n] @ left[:, :n].T, atol=1e-4, rtol=1e-4
    )


def test_gpm_adds_nothing_for_inputs_that_it_holds_and_never_more_than_there_is():
    inputs = torch.randn(4, 20, generator=generator_of(0, "gpm"))
    basis = extended(torch.zeros(4, 0), inputs @ inputs.T, 1.0)
    assert basis.shape == (4, 4)
    assert torch.equal(extended(basis, inputs @ inputs.T, 1.0), basis)
    assert extended(torch.zeros(4, 0), inputs @ inputs.T, 0.0).shape == (4, 0)


@pytest.mark.parametrize("adapter", ["lora", "bottleneck"])
def test_gpm_projects_each_matrix_by_what_it_read(adapter, nouns, tiny_bert):
    learner, _ = after(1, "gpm", nouns, tiny_bert, adapter=adapter, threshold=0.9)
    parameters = learner.model.parameters()
    generator = generator_of(0, "gradients")
    gradients = {k: torch.randn(v.shape, generator=generator) for k, v in parameters.items()}
    adjusted = learner.strategy.adjust(learner.model, gradients, [])
    read = inputs_read(learner.model, nouns.experiences[0].train.inputs)
    for name, gradient in gradients.items():
        if name.startswith("head."):
            assert adjusted[name] is gradient
        elif name.removeprefix("main.") in read:
            x = read[name.removeprefix("main.")]
            response = x @ adjusted[name].T
            left = torch.linalg.svd(x.T, full_matrices=False)
            k = int((left.S.square().cumsum(0) < 0.9 * left.S.square().sum()).sum()) + 1
            u = left.U[:, :k]
            naive = gradient - gradient @ u @ u.T
            torch.testing.assert_close(adjusted[name], naive, atol=1e-3, rtol=1e-3)
            assert response.norm() < 0.5 * (x @ gradient.T).norm()
        else:
            assert adapter == "bottleneck"
            assert not adjusted[name].any()


def test_gpm_knows_what_every_matrix_of_an_adapter_reads(nouns, tiny_bert):
    data = nouns.experiences[0].train
    for adapter in ("lora", "bottleneck"):
        learner, _ = after(1, "gpm", nouns, tiny_bert, adapter=adapter)
        model = learner.model
        tensors = model.adapters[MAIN].tensors
        read = inputs_read(model, data.inputs)
        assert {k for k, v in tensors.items() if v.dim() == 2} == set(read)
        for name, x in read.items():
            # A row more or less of W x would show in the features: every token is there.
            assert x.shape == (int(data.inputs["attention_mask"].sum()), tensors[name].shape[1])
            assert torch.equal(grouped_linear(x, tensors[name]), x @ tensors[name].T)


def test_gpm_of_the_whole_space_keeps_old_features_and_of_none_of_it_moves_them(nouns, tiny_bert):
    def change(threshold):
        settings = {"threshold": threshold, "growth": 0.0, "training": replace(SGD, epochs=4)}
        learner, data = after(1, "gpm", nouns, tiny_bert, **settings)
        old = nouns.experiences[0].test.inputs
        before = learner.model(old).features.detach()
        learn_on(learner, data)
        return (learner.model(old).features - before).abs().max()

    free = change(0.0)
    assert free > 1e-3
    assert change(0.99) < 0.1 * free
    assert change(1.0) < 1e-5
