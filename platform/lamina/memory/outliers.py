"""Virtual outliers: points around the outermost features of a task, where other tasks' may be.

Non-parametric outlier synthesis (NPOS, Tao et al., 2023), as OVOR uses it.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

BOUNDARY, CANDIDATES = 50, 600
"""Outermost features that are drawn around, and draws around each (OVOR's code)."""
BATCH = 128
"""Features of a step."""


def virtual_outliers(
    features: Tensor, number: int, generator: torch.Generator, neighbours: int, deviation: float
) -> Tensor:
    """`number` points [n, d]: of the draws from N(b, deviation^2 I) around each of the outermost
    features b, those that are outermost themselves.

    How far out a point is, is how far its K-th nearest feature is, K = `neighbours`.
    """
    centres = features[outermost(features, features, BOUNDARY, neighbours)]
    noise = torch.randn(CANDIDATES, *centres.shape, generator=generator).to(features.device)
    drawn = (centres + deviation * noise).flatten(0, 1)
    return drawn[outermost(drawn, features, number, neighbours)]


def outermost(points: Tensor, features: Tensor, number: int, k: int) -> Tensor:
    """Which of `points` [n, d] are furthest from their k-th nearest of `features` [m, d], all
    normalised."""
    distances = torch.cdist(F.normalize(points, dim=1), F.normalize(features, dim=1))
    kth = distances.kthvalue(min(k, len(features)), dim=1).values
    return kth.topk(min(number, len(points))).indices


def paired_batches(
    num_features: int, num_outliers: int, epochs: int, generator: torch.Generator
) -> list[tuple[Tensor, Tensor]]:
    """Rows of features and of outliers for each step; every row once an epoch."""
    num_batches = -(-num_features // BATCH)
    pairs = []
    for _ in range(epochs):
        orders = [torch.randperm(n, generator=generator) for n in (num_features, num_outliers)]
        pairs += list(zip(*(order.tensor_split(num_batches) for order in orders), strict=True))
    return pairs
