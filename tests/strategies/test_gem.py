"""GEM: its losses, state and answers against naive versions."""

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import nnls

from classic_cases import flat, replay_of
from lamina.core import generator_of
from lamina.strategies.gem import nonnegative_minimum
from nouns import after, as_scenario, logits_of


@pytest.mark.parametrize("seed", range(8))
def test_gem_solves_its_dual_as_scipy_does(seed):
    num_tasks, dim = 1 + seed, 5
    generator = generator_of(seed, "qp")
    references = torch.randn(num_tasks, dim, generator=generator, dtype=torch.float64)
    gradient = torch.randn(dim, generator=generator, dtype=torch.float64)
    if seed % 3 == 2:
        references[0] = 0
        references[1] = 2 * references[2 % num_tasks]
    v = nonnegative_minimum(references @ references.T, references @ gradient)
    moved = gradient + references.T @ v
    theirs, _ = nnls(references.T.numpy(), -gradient.numpy())
    expected = gradient + references.T @ torch.from_numpy(theirs)
    torch.testing.assert_close(moved, expected, atol=1e-7, rtol=1e-7)
    assert (v >= 0).all()
    assert (references @ moved > -1e-7).all()


def test_gem_has_a_reference_for_every_past_task(nouns, tiny_bert):
    learner, data = after(2, "gem", nouns, tiny_bert)
    output = learner.strategy.step(learner.model, data, replay_of(learner))
    exemplars = replay_of(learner).draw(200)
    assert len(output.references) == 2
    for past, reference in enumerate(output.references):
        rows = exemplars[(exemplars.labels // 2 == past).nonzero()[:, 0]]
        assert len(rows) == 4
        naive = F.cross_entropy(logits_of(learner, rows), rows.labels)
        torch.testing.assert_close(reference, naive, atol=1e-5, rtol=1e-5)
    plain = F.cross_entropy(logits_of(learner, data), data.labels)
    torch.testing.assert_close(output.loss, plain)


def test_gem_takes_the_nearest_gradient_that_no_past_task_speaks_against(nouns, tiny_bert):
    learner, data = after(2, "gem", nouns, tiny_bert, margin=0.0)
    strategy, parameters = learner.strategy, learner.model.parameters()
    output = strategy.step(learner.model, data, replay_of(learner))
    values = list(parameters.values())
    found = [
        torch.autograd.grad(each, values, retain_graph=True)
        for each in (output.loss, *output.references)
    ]
    gradient, *references = (dict(zip(parameters, each, strict=True)) for each in found)
    names = list(parameters)
    memory = torch.stack([flat(each, names) for each in references]).double()
    g = flat(gradient, names).double()
    assert (memory @ g < 0).any()
    adjusted = flat(strategy.adjust(learner.model, gradient, references), names).double()
    theirs, _ = nnls(memory.T.numpy(), -g.numpy())
    expected = g + memory.T @ torch.from_numpy(theirs)
    torch.testing.assert_close(adjusted, expected, atol=1e-6, rtol=1e-4)
    strategy.margin = 0.3
    with_margin = flat(strategy.adjust(learner.model, gradient, references), names).double()
    torch.testing.assert_close(with_margin, expected + 0.3 * memory.sum(0), atol=1e-6, rtol=1e-4)
    agreeing = [{k: v.clone() for k, v in gradient.items()}] * 2
    assert strategy.adjust(learner.model, gradient, agreeing) is gradient


def test_gem_margin_is_the_papers_for_new_classes_and_nothing_for_domains(nouns, tiny_bert):
    def margin(stream, **settings):
        learner, _ = after(1, "gem", stream, tiny_bert, **settings)
        against = {"a": torch.tensor([-1.0])}
        # The nearest gradient without disagreement is zero; what is left is the margin.
        moved = learner.strategy.adjust(learner.model, {"a": torch.tensor([1.0])}, [against])
        return -float(moved["a"])

    domains = as_scenario(nouns, "domain_incremental")
    assert margin(nouns) == pytest.approx(0.5)
    assert margin(domains) == pytest.approx(0.0)
    assert margin(nouns, margin=0.0) == pytest.approx(0.0)
    assert margin(domains, margin=0.3) == pytest.approx(0.3)
