"""Which sums over a client's rows may leave it: class means of very few rows are these rows."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.core import Batch, Summary, generator_of
from lamina.federation.privacy.accounting import Release
from lamina.federation.privacy.client_level import clipped
from lamina.registry import InputError


@dataclass(frozen=True)
class ReleaseRule:
    """When and how exactly a client sends the sums of a `Summary`."""

    min_rows: int = 10
    """Without noise: rows of a class of which the client has fewer are left out of the sums. A rule
    of thumb against reading rows off their mean; it is no differential privacy."""
    noise_multiplier: float = 0.0
    """z; above 0, the sums are one release of `accounting.Release(z)` to each of the client's rows.
    `min_rows` is then not used: noise hides rare classes too, and a threshold on true counts would
    tell of them."""
    clip: float = 1.0
    """C, the largest L2 norm of what one row adds to all sums together; with noise only."""

    def __post_init__(self) -> None:
        if self.min_rows < 1:
            raise InputError(
                f"federation.privacy.summaries.min_rows: {self.min_rows} is not positive"
            )
        if not (self.noise_multiplier >= 0 and math.isfinite(self.noise_multiplier)):
            raise InputError(
                "federation.privacy.summaries.noise_multiplier: "
                f"{self.noise_multiplier} is not a number from 0"
            )
        if not (self.clip > 0 and math.isfinite(self.clip)):
            raise InputError(
                f"federation.privacy.summaries.clip: {self.clip} is not a positive number"
            )

    @property
    def release(self) -> Release | None:
        """The release of the sums, for an `Accountant` of the client's rows; None without noise."""
        return Release(self.noise_multiplier) if self.noise_multiplier > 0 else None

    def num_rows(self, labels: Tensor) -> int:
        """How many rows with these labels the sums are of."""
        return len(labels) if self.release else len(frequent_rows(labels, self.min_rows))


def frequent_rows(labels: Tensor, min_rows: int) -> Tensor:
    """The rows, int64 [n], whose class has at least `min_rows` of them. Rows labelled with token
    sequences [N, L] are all of one class."""
    classes = labels if labels.dim() == 1 else torch.zeros_like(labels[:, 0])
    _, own, counts = classes.unique(return_inverse=True, return_counts=True)
    return (counts[own] >= min_rows).nonzero()[:, 0]


def released_sums(
    review: Callable[[Batch], Summary | None],
    batch: Batch,
    rule: ReleaseRule,
    seed: int,
    *names: str | int,
    chunk: int = 128,
) -> dict[str, Tensor]:
    """The sums that `review` (`Strategy.preview` or `review` of a model) finds in a client's rows
    (at least one), as they may be sent; none where it wants none.

    With noise, every row is reviewed by itself, so that what it adds can be clipped to C: as many
    calls as rows. The noise comes from the seed of `names` (the round and the client), which in a
    deployment is a secret of the client's. Noisy counts are not whole, and those of absent classes
    not zero. Raises InputError for a summary that keeps rows.
    """
    assert len(batch) > 0
    if rule.noise_multiplier == 0:
        kept = batch[frequent_rows(batch.labels, rule.min_rows)].by_length()
        if len(kept) > 0:
            return _added(review, kept, chunk)
        one = _added(review, batch[:1], chunk)
        return {name: torch.zeros_like(value) for name, value in one.items()}
    total: dict[str, Tensor] = {}
    dtypes: dict[str, torch.dtype] = {}
    for row in batch.chunks(1):
        summary = review(row)
        if summary is None:
            return {}
        sums = declared_sums(summary)
        dtypes = {name: value.dtype for name, value in sums.items()}
        for name, value in clipped(sums, rule.clip).items():
            total[name] = total[name] + value if name in total else value
    scale = rule.noise_multiplier * rule.clip
    return {
        name: (value + scale * _noise(value, seed, *names, name)).to(dtypes[name])
        for name, value in total.items()
    }


def declared_sums(summary: Summary) -> Mapping[str, Tensor]:
    """The sums of a summary, which is all of it that may leave a client.

    Raises InputError for one that also keeps rows: what needs them cannot be federated.
    """
    if summary.rows:
        raise InputError(
            f"strategy: its summary keeps rows of the data ({', '.join(sorted(summary.rows))}), "
            "which may not leave a client, and it does not declare so (`summary_rows`)"
        )
    return summary.sums


def _added(
    review: Callable[[Batch], Summary | None], batch: Batch, chunk: int
) -> dict[str, Tensor]:
    total: Mapping[str, Tensor] = {}
    for rows in batch.chunks(chunk):
        summary = review(rows)
        if summary is None:
            return {}
        sums = declared_sums(summary)
        total = {name: total[name] + value for name, value in sums.items()} if total else sums
    return dict(total)


def _noise(like: Tensor, seed: int, *names: str | int) -> Tensor:
    generator = generator_of(seed, "summary noise", *names)
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.device)
