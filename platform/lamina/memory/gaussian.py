"""Gaussian memory: what is kept of a class is the mean and the covariance of its features.

The moments are sums, so they add up over batches, workers and clients; sampling from them replays a
class without a row of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def moments(features: Tensor, labels: Tensor, num_classes: int) -> dict[str, Tensor]:
    """Sums of a `Summary`: per class the `count` [C], `total` [C, d] and `outer` [C, d, d] of
    features [N, d]."""
    one_hot = F.one_hot(labels, num_classes).to(features.dtype)
    return {
        "count": one_hot.sum(dim=0),
        "total": one_hot.T @ features,
        "outer": torch.einsum("nc,nd,ne->cde", one_hot, features, features),
    }


@dataclass(frozen=True)
class Gaussians:
    """A normal distribution per class. Classes without a row have count 0 and are never drawn."""

    count: Tensor
    """float32 [C], rows seen."""
    mean: Tensor
    """float32 [C, d]."""
    covariance: Tensor
    """float32 [C, d, d], the unbiased estimate; zero for a class of one row."""

    @classmethod
    def of(cls, sums: Mapping[str, Tensor]) -> "Gaussians":
        """From the sums of `moments`."""
        count = sums["count"]
        mean = sums["total"].double() / count.clamp_min(1)[:, None]
        centred = sums["outer"].double() - count[:, None, None] * torch.einsum(
            "cd,ce->cde", mean, mean
        )
        covariance = centred / (count - 1).clamp_min(1)[:, None, None]
        return cls(count, mean.float(), covariance.float())

    def updated(self, newer: "Gaussians") -> "Gaussians":
        """These, with every class that `newer` has seen replaced; `newer` may know more classes."""
        missing = len(newer.count) - len(self.count)
        seen = newer.count > 0
        return Gaussians(
            torch.where(seen, newer.count, F.pad(self.count, (0, missing))),
            torch.where(seen[:, None], newer.mean, F.pad(self.mean, (0, 0, 0, missing))),
            torch.where(
                seen[:, None, None],
                newer.covariance,
                F.pad(self.covariance, (0, 0, 0, 0, 0, missing)),
            ),
        )

    def sample(
        self, per_class: int, generator: torch.Generator, ridge: float = 1e-4
    ) -> tuple[Tensor, Tensor]:
        """`per_class` features of every class seen, [n, d], and their labels int64 [n].

        The covariance gets `ridge` on its diagonal. Drawn on the CPU so that every device draws
        alike.
        """
        seen = (self.count > 0).nonzero()[:, 0]
        covariance = self.covariance[seen].double().cpu()
        diagonal = covariance.diagonal(dim1=1, dim2=2) + ridge
        factor = torch.linalg.cholesky(covariance.diagonal_scatter(diagonal, dim1=1, dim2=2))
        shape = (len(seen), per_class, self.mean.shape[1])
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        drawn = self.mean[seen].cpu()[:, None] + (noise @ factor.transpose(1, 2)).float()
        return drawn.flatten(0, 1).to(self.mean.device), seen.repeat_interleave(per_class)
