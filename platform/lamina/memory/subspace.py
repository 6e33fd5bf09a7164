"""Subspace memory: the past is remembered by the directions that a module's inputs took.

A gradient that is orthogonal to these directions leaves the module's outputs for old inputs as they
were (Gradient Projection Memory, Saha et al., 2021).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Subspace:
    """The directions of R^d that were taken. They are held as an orthonormal basis; or as a basis
    of their complement, once they are more than half (DualGPM, Liang and Li, 2023)."""

    basis: Tensor
    """float32 [d, k], orthonormal columns."""
    is_complement: bool = False
    """Whether `basis` spans what was not taken (`retain` in the authors' code, else `remove`)."""

    def state(self) -> dict[str, Any]:
        """Its fields, for a strategy's state."""
        return asdict(self)

    def outside(self, matrix: Tensor) -> Tensor:
        """The component of the columns of `matrix` [d, n] that is orthogonal to the directions
        taken."""
        basis = self.basis.to(matrix.dtype)
        spanned = basis @ (basis.T @ matrix)
        return spanned if self.is_complement else matrix - spanned

    def grown(self, matrix: Tensor, threshold: float) -> "Subspace":
        """The subspace with the fewest further directions that make it hold a share `threshold` of
        the energy ||matrix||_F^2 (GPM, eq. 9)."""
        directions, energy = left_directions(self.outside(matrix))
        total = matrix.square().sum()
        inside = (total - energy.sum()).clamp_min(0.0)
        before = inside + energy.cumsum(0) - energy
        new = directions[:, : int((before < threshold * total).sum())]
        if self.is_complement:
            free = self.basis.to(matrix.dtype)
            rest = free - new @ (new.T @ free)
            left, _ = left_directions(rest)
            num_left = max(0, self.basis.shape[1] - new.shape[1])
            return Subspace(left[:, :num_left].float(), True)
        basis = torch.cat([self.basis.to(matrix.dtype), new], dim=1)
        if 2 * basis.shape[1] <= basis.shape[0]:
            return Subspace(basis.float())
        full = torch.linalg.svd(basis, full_matrices=True)[0]
        return Subspace(full[:, basis.shape[1] :].float(), True)


def recalled(kept: Mapping[str, Mapping[str, Any]], name: str, like: Tensor) -> Subspace:
    """The subspace that `state` gave under a name. Where nothing is kept, a subspace with no
    direction taken, in the space of the columns of `like` [d, n]."""
    return Subspace(**kept[name]) if name in kept else Subspace(like.new_zeros(like.shape[0], 0))


def left_directions(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular vectors [d, k] of `matrix` with the energy of each, the square of its singular
    value, in descending order; k is its rank in floating point."""
    left, values, _ = torch.linalg.svd(matrix, full_matrices=False)
    tolerance = values.amax() * max(matrix.shape) * torch.finfo(values.dtype).eps
    k = int((values > tolerance).sum())
    return left[:, :k], values[:k].square()
