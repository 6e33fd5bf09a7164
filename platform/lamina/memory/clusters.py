"""Cluster memory: what is kept of a task is the centres of k-means (Lloyd, 1982) on its features.
"""

import torch
from torch import Tensor


def k_means(rows: Tensor, k: int, generator: torch.Generator, iterations: int = 100) -> Tensor:
    """Centres [min(k, n), d] of rows [n, d], started by k-means++ (Arthur and Vassilvitskii, 2007).

    A centre that loses all its rows stays where it is.
    """
    centres = _spread(rows, min(k, len(rows)), generator)
    for _ in range(iterations):
        member = torch.cdist(rows, centres).argmin(dim=1)
        counts = torch.bincount(member, minlength=len(centres)).to(rows.dtype)[:, None]
        totals = torch.zeros_like(centres).index_add(0, member, rows)
        moved = torch.where(counts > 0, totals / counts.clamp_min(1), centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres


def _spread(rows: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k of the rows, each drawn with the square of its distance to those before it."""
    chosen = [int(torch.randint(len(rows), (1,), generator=generator))]
    for _ in range(k - 1):
        distance = torch.cdist(rows, rows[chosen]).min(dim=1).values.square().cpu()
        weights = distance if distance.sum() > 0 else torch.ones_like(distance)
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
    return rows[chosen].clone()
