"""Ridge regression on one-hot labels from sums of features: its solution, and the choice of its
ridge.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

RIDGES = [10.0**exponent for exponent in range(-8, 9)]
"""What is tried (as by RanPAC)."""
HELD_OUT = 5
"""Every fifth row, by its id, chooses the ridge."""


def ridge_sums(
    features: Tensor, labels: Tensor, ids: Tensor, num_classes: int
) -> dict[str, Tensor]:
    """Sums of a `Summary`: Gram matrices H^T H [M, M] and class sums H^T Y [M, C] of features
    H [N, M], of the rows to fit and of the rows held out."""
    one_hot = F.one_hot(labels, num_classes).to(features.dtype)
    held_out = (ids % HELD_OUT == 0).to(features.device)
    sums = {}
    for name, rows in (("fit", ~held_out), ("held_out", held_out)):
        h, y = features[rows], one_hot[rows]
        sums[f"gram_{name}"], sums[f"cross_{name}"] = h.T @ h, h.T @ y
    return sums


def plus_columns(sums: Mapping[str, Tensor], past: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sums of `ridge_sums` with those of the past, which may know fewer classes (columns)."""
    return {
        name: value + F.pad(past[name], (0, value.shape[1] - past[name].shape[1]))
        if name in past
        else value
        for name, value in sums.items()
    }


def best_ridge(sums: Mapping[str, Tensor]) -> float:
    """Of RIDGES, the one whose solution on the rows to fit has the least squared error on those
    held out."""
    fit = (sums["gram_fit"], sums["cross_fit"])
    held_out = (sums["gram_held_out"], sums["cross_held_out"])
    errors = [squared_error(ridge_solution(*fit, ridge), *held_out) for ridge in RIDGES]
    return RIDGES[int(torch.stack(errors).argmin())]


def solution_of(sums: Mapping[str, Tensor], ridge: float) -> Tensor:
    """The solution on all rows, [M, C], with this ridge, or with the next of RIDGES that solves
    them: of few rows the sum may be singular where that of the rows to fit is not."""
    gram = sums["gram_fit"] + sums["gram_held_out"]
    cross = sums["cross_fit"] + sums["cross_held_out"]
    ridges = [ridge, *(each for each in RIDGES if each > ridge)]
    tried = (ridge_solution(gram, cross, each) for each in ridges)
    return next(
        (each for each in tried if each.isfinite().all()), torch.full_like(cross, torch.nan)
    )


def ridge_solution(gram: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """(G + ridge I)^-1 Q in float64, [M, C] float32; not finite where G + ridge I is numerically
    singular."""
    regularised = gram.double().diagonal_scatter(gram.diagonal().double() + ridge)
    factor, failed = torch.linalg.cholesky_ex(regularised)
    if failed:
        return torch.full_like(cross, float("nan"))
    # Column by column as it comes; a file has it row by row, and products round otherwise then.
    return torch.cholesky_solve(cross.double(), factor).to(cross.dtype).contiguous()


def squared_error(solution: Tensor, gram: Tensor, cross: Tensor) -> Tensor:
    """||H W - Y||^2 up to the constant ||Y||^2, from G = H^T H and Q = H^T Y alone.

    Infinite where W is not finite.
    """
    weights = solution.double()
    error = (weights * (gram.double() @ weights - 2 * cross.double())).sum()
    return error.nan_to_num(nan=float("inf"))
