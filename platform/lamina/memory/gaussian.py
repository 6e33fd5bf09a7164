"""Gaussian memory: a class is remembered by the mean and the covariance of its features.

The moments are sums, so they add up over batches, workers and clients. Samples of the Gaussians
replay a class without any of its rows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def class_sums(features: Tensor, labels: Tensor, num_classes: int) -> dict[str, Tensor]:
    """Sums of a `Summary`: per class the `count` [C] and `total` [C, d] of features [N, d]."""
    one_hot = F.one_hot(labels, num_classes).to(features.dtype)
    return {"count": one_hot.sum(dim=0), "total": one_hot.T @ features}


def moments(features: Tensor, labels: Tensor, num_classes: int) -> dict[str, Tensor]:
    """Sums of a `Summary`: those of `class_sums`, and per class the `outer` [C, d, d] of features
    [N, d].

    Products are in float64, so that the covariance survives a mean far from zero.
    """
    outer = features.new_zeros(num_classes, features.shape[1], features.shape[1])
    for label in labels.unique().tolist():
        own = features[labels == label].double()
        outer[label] = own.T @ own
    return {**class_sums(features, labels, num_classes), "outer": outer}


def plus_classes(sums: Mapping[str, Tensor], past: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sums per class [C, ...] plus those of the past with the same names, where there are any. The
    past may know fewer classes."""
    total = {name: value.clone() for name, value in sums.items()}
    for name, value in past.items():
        total[name][: len(value)] += value
    return total


def class_means(sums: Mapping[str, Tensor]) -> Tensor:
    """Means [C, d] from the sums of `class_sums`; zero for a class without a row."""
    return sums["total"] / sums["count"].clamp_min(1)[:, None]


@dataclass(frozen=True)
class Gaussians:
    """A normal distribution per class. Classes without a row have count 0 and are never drawn.

    `Gaussians(**tensors)` undoes `dict(vars(gaussians))`, which a strategy's state can hold.
    """

    count: Tensor
    """float32 [C], rows seen."""
    mean: Tensor
    """float32 [C, d]."""
    covariance: Tensor
    """float32 [C, d, d], the unbiased estimate; zero for a class of one row."""

    @classmethod
    def of(cls, sums: Mapping[str, Tensor]) -> "Gaussians":
        """The distributions from the sums of `moments`."""
        count = sums["count"]
        mean = sums["total"].double() / count.clamp_min(1)[:, None]
        centred = sums["outer"].double() - count[:, None, None] * torch.einsum(
            "cd,ce->cde", mean, mean
        )
        covariance = centred / (count - 1).clamp_min(1)[:, None, None]
        return cls(count, mean.float(), covariance.float())

    @property
    def num_seen(self) -> int:
        """How many classes have rows."""
        return int((self.count > 0).sum())

    def updated(self, newer: "Gaussians") -> "Gaussians":
        """These distributions, with every class that `newer` has seen replaced. `newer` may know
        more classes."""
        past = self._padded(len(newer.count))
        seen = newer.count > 0
        return Gaussians(
            torch.where(seen, newer.count, past.count),
            torch.where(seen[:, None], newer.mean, past.mean),
            torch.where(seen[:, None, None], newer.covariance, past.covariance),
        )

    def pooled(self, newer: "Gaussians") -> "Gaussians":
        """The distributions of both sets of rows together (Chan et al., 1979), for classes that
        come back. `newer` may know more classes."""
        past = self._padded(len(newer.count))
        count = past.count + newer.count
        share = newer.count / count.clamp_min(1)
        step = newer.mean - past.mean
        scatter = (
            past.covariance * (past.count - 1).clamp_min(0)[:, None, None]
            + newer.covariance * (newer.count - 1).clamp_min(0)[:, None, None]
            + torch.einsum("c,cd,ce->cde", past.count * share, step, step)
        )
        return Gaussians(
            count,
            past.mean + share[:, None] * step,
            scatter / (count - 1).clamp_min(1)[:, None, None],
        )

    def sample(
        self, per_class: int, generator: torch.Generator, ridge: float = 1e-4
    ) -> tuple[Tensor, Tensor]:
        """`per_class` features of every class seen, [n, d], and their labels int64 [n].

        The covariance gets `ridge` on its diagonal. Drawn on the CPU so that every device draws
        alike.
        """
        return self._drawn(self._factor(ridge), per_class, generator)

    def batches(
        self, epochs: int, per_class: int, generator: torch.Generator, ridge: float = 1e-4
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """`epochs` samples, new ones each time, shuffled and cut into batches of `per_class`: that
        is `num_seen` batches an epoch, as the field refits heads."""
        factor = self._factor(ridge)
        for _ in range(epochs):
            features, labels = self._drawn(factor, per_class, generator)
            order = torch.randperm(len(labels), generator=generator).to(labels.device)
            yield from zip(
                features[order].split(per_class), labels[order].split(per_class), strict=True
            )

    def _factor(self, ridge: float) -> Tensor:
        """L with L L^T = covariance + ridge I of the classes seen, float64 on the CPU.

        Rounding may leave a covariance with eigenvalues below -ridge; they count as none.
        """
        covariance = self.covariance[self.count > 0].double().cpu()
        diagonal = covariance.diagonal(dim1=1, dim2=2) + ridge
        factor, failed = torch.linalg.cholesky_ex(
            covariance.diagonal_scatter(diagonal, dim1=1, dim2=2)
        )
        for index in failed.nonzero()[:, 0].tolist():
            values, vectors = torch.linalg.eigh(covariance[index])
            factor[index] = vectors * (values.clamp_min(0) + ridge).sqrt()
        return factor

    def _drawn(
        self, factor: Tensor, per_class: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        seen = (self.count > 0).nonzero()[:, 0]
        shape = (len(seen), per_class, self.mean.shape[1])
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        drawn = self.mean[seen].cpu()[:, None] + (noise @ factor.transpose(1, 2)).float()
        return drawn.flatten(0, 1).to(self.mean.device), seen.repeat_interleave(per_class)

    def _padded(self, num_classes: int) -> "Gaussians":
        missing = num_classes - len(self.count)
        return Gaussians(
            F.pad(self.count, (0, missing)),
            F.pad(self.mean, (0, 0, 0, missing)),
            F.pad(self.covariance, (0, 0, 0, 0, 0, missing)),
        )
