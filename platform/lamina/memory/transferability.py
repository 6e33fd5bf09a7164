"""How much of one task is in the features of another, from their moments alone."""

from collections.abc import Mapping

import torch
from torch import Tensor


def transrate(sums: Mapping[str, Tensor], epsilon: float = 1e-4) -> Tensor:
    """TransRate (Huang et al., 2022): R(Z) - R(Z | Y) of centred features Z, from the sums of
    `moments`: how much of the features' coding rate the labels explain.

    `epsilon` is the distortion of its authors' code. Classes weigh by their rows.
    """
    count, total, outer = (sums[name].double() for name in ("count", "total", "outer"))
    mean = total.sum(dim=0) / count.sum()
    cross = torch.einsum("cd,e->cde", total, mean)
    scatter = outer - cross - cross.mT + torch.einsum("c,d,e->cde", count, mean, mean)
    within = count / count.sum() * _coding_rate(scatter, count.clamp_min(1), epsilon)
    return _coding_rate(scatter.sum(dim=0), count.sum(), epsilon) - within.sum()


def _coding_rate(scatter: Tensor, count: Tensor, epsilon: float) -> Tensor:
    """1/2 log det(I + Z^T Z / (n epsilon)), of Z^T Z [..., d, d] and n [...]."""
    eye = torch.eye(scatter.shape[-1], dtype=scatter.dtype, device=scatter.device)
    return torch.logdet(eye + scatter / (count * epsilon)[..., None, None]) / 2
