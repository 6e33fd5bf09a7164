import torch
import torch.nn.functional as F
from sklearn.linear_model import Ridge

from lamina.core import generator_of
from lamina.ridge import (
    HELD_OUT,
    RIDGES,
    best_ridge,
    plus_columns,
    ridge_solution,
    ridge_sums,
    solution_of,
    squared_error,
)


def rows(number=60, width=12, classes=3, name="ridge"):
    generator = generator_of(0, name)
    labels = torch.randint(0, classes, (number,), generator=generator)
    features = torch.randn(number, width, generator=generator).relu() + labels[:, None] / 4
    return features, labels, torch.arange(number)


def test_the_solution_is_scikit_learns_on_all_rows():
    h, labels, ids = rows()
    sums = ridge_sums(h, labels, ids, 3)
    theirs = Ridge(alpha=0.5, fit_intercept=False).fit(h.numpy(), F.one_hot(labels).numpy())
    ours = solution_of(sums, 0.5)
    torch.testing.assert_close(ours.T, torch.from_numpy(theirs.coef_).float(), atol=1e-4, rtol=1e-3)


def test_error_from_sums_is_the_residual_on_the_rows():
    h, labels, _ = rows()
    h, y = h.double(), F.one_hot(labels).double()
    solution = ridge_solution(h.T @ h, h.T @ y, 0.1)
    residual = (h @ solution - y).square().sum()
    error = squared_error(solution, h.T @ h, h.T @ y) + y.square().sum()
    torch.testing.assert_close(error, residual)


def test_the_best_ridge_has_the_least_error_on_every_fifth_row():
    h, labels, ids = rows(number=40, width=30)
    sums = ridge_sums(h, labels, ids, 3)
    held_out = ids % HELD_OUT == 0
    assert held_out.sum() == 8
    errors = []
    for ridge in RIDGES:
        fit = Ridge(alpha=ridge, fit_intercept=False)
        fit.fit(h[~held_out].double().numpy(), F.one_hot(labels)[~held_out].double().numpy())
        predicted = torch.from_numpy(fit.predict(h[held_out].double().numpy()))
        errors.append((predicted - F.one_hot(labels)[held_out]).square().sum().item())
    assert best_ridge(sums) == RIDGES[errors.index(min(errors))]


def test_a_singular_matrix_is_never_the_best():
    h = torch.ones(10, 4)
    sums = ridge_sums(h, torch.zeros(10, dtype=torch.int64), torch.arange(10), 1)
    assert not ridge_solution(torch.zeros(4, 4), torch.zeros(4, 1), 0.0).isfinite().any()
    assert squared_error(torch.full((4, 1), float("nan")), h.T @ h, h.T @ h[:, :1]) == float("inf")
    assert solution_of(sums, best_ridge(sums)).isfinite().all()


def test_rows_whose_sum_alone_is_singular_are_solved_with_the_next_ridge():
    twin = torch.full((4, 2), 1e6, dtype=torch.float32)
    sums = ridge_sums(twin, torch.tensor([0, 1, 0, 1]), torch.arange(4), 2)
    gram = sums["gram_fit"] + sums["gram_held_out"]
    assert not ridge_solution(gram, sums["cross_fit"], RIDGES[0]).isfinite().all()
    assert solution_of(sums, RIDGES[0]).isfinite().all()


def test_sums_add_over_tasks_of_more_and_more_classes():
    h, labels, ids = rows()
    first = ridge_sums(h[:20], labels[:20] % 2, ids[:20], 2)
    second = ridge_sums(h[20:], labels[20:], ids[20:], 3)
    every = torch.cat([labels[:20] % 2, labels[20:]])
    whole = ridge_sums(h, every, ids, 3)
    total = plus_columns(second, plus_columns(first, {}))
    for name, value in whole.items():
        torch.testing.assert_close(total[name], value, atol=1e-3, rtol=1e-4)
