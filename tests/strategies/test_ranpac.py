"""RanPAC: its losses, state and answers against naive versions."""

import torch
import torch.nn.functional as F
from sklearn.linear_model import Ridge

from lamina.adapters.model import MAIN
from lamina.core import Batch, generator_of
from lamina.ridge import ridge_solution, squared_error
from nouns import make_learner


def test_ranpac_solution_is_scikit_learns_ridge_on_all_tasks_at_once(minilm_nouns, minilm):
    learner = make_learner("ranpac", minilm_nouns, minilm, adapter=None, projection=96)
    list(learner.learn())
    train = Batch.cat([each.train for each in minilm_nouns.experiences])
    weight = learner.strategy.state["projection"]
    h = (minilm(train.inputs).features @ weight).relu().double().numpy()
    y = F.one_hot(train.labels, 6).double().numpy()
    ridge = Ridge(alpha=learner.strategy.state["ridge"], fit_intercept=False).fit(h, y)
    query = minilm(minilm_nouns.experiences[0].test.inputs).features
    theirs = torch.from_numpy(ridge.predict((query @ weight).relu().double().numpy())).float()
    ours = learner.strategy.predict(learner.model, minilm_nouns.experiences[0].test.inputs, None)
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=2e-3)


def test_ranpac_error_from_sums_is_the_residual_on_the_rows():
    generator = generator_of(0, "ridge")
    h = torch.rand(40, 12, generator=generator).double()
    y = F.one_hot(torch.arange(40) % 3, 3).double()
    solution = ridge_solution(h.T @ h, h.T @ y, 0.1)
    naive = torch.linalg.solve(h.T @ h + 0.1 * torch.eye(12), h.T @ y)
    torch.testing.assert_close(solution, naive)
    residual = (h @ solution - y).square().sum()
    error = squared_error(solution, h.T @ h, h.T @ y) + y.square().sum()
    torch.testing.assert_close(error, residual)


def test_ranpac_trains_its_adapter_on_the_first_task_only(nouns, tiny_bert):
    learner = make_learner("ranpac", nouns, tiny_bert)
    reports = learner.learn()
    next(reports)
    steps = learner.num_steps
    tensors = {k: v.detach().clone() for k, v in learner.model.adapters[MAIN].tensors.items()}
    assert steps == 2 * 3
    list(reports)
    assert learner.num_steps == steps
    after_all = learner.model.adapters[MAIN].tensors
    assert all(torch.equal(tensors[k], after_all[k]) for k in tensors)


def test_ranpac_projection_moves_the_result(minilm_nouns, minilm):
    def logits(width):
        learner = make_learner("ranpac", minilm_nouns, minilm, adapter=None, projection=width)
        list(learner.learn())
        inputs = minilm_nouns.experiences[0].test.inputs
        return learner.strategy.predict(learner.model, inputs, None)

    assert (logits(8) - logits(512)).abs().max() > 0.05
