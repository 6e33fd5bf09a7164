"""Cluster memory: a task is remembered by the centres that k-means finds in its features."""

import torch
from torch import Tensor


def k_means(rows: Tensor, k: int, generator: torch.Generator, iterations: int = 100) -> Tensor:
    """Centres [min(k, n), d] of rows [n, d], by Lloyd's algorithm (1982) from a start by k-means++
    (Arthur and Vassilvitskii, 2007).

    A centre that loses all its rows stays where it is.
    """
    centres = _spread(rows, min(k, len(rows)), generator)
    for _ in range(iterations):
        member = _distances(rows, centres).argmin(dim=1)
        counts = torch.bincount(member, minlength=len(centres)).to(rows.dtype)[:, None]
        totals = torch.zeros_like(centres).index_add(0, member, rows)
        moved = torch.where(counts > 0, totals / counts.clamp_min(1), centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres


def _spread(rows: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k rows chosen by k-means++: each is drawn with a probability proportional to its squared
    distance to the nearest row drawn before."""
    chosen = [int(torch.randint(len(rows), (1,), generator=generator))]
    for _ in range(k - 1):
        weights = _distances(rows, rows[chosen]).min(dim=1).values.square().cpu()
        if weights.sum() == 0:
            weights = torch.ones_like(weights)
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
    return rows[chosen].clone()


def _distances(rows: Tensor, centres: Tensor) -> Tensor:
    """Euclidean, [n, k]; exactly zero where a row is a centre."""
    return torch.cdist(rows, centres, compute_mode="donot_use_mm_for_euclid_dist")
