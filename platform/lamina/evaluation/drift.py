"""Drift: how far learning a task changes a model's outputs, and whether drift goes with forgetting.

Shenfeld, Pari and Agrawal (2025), "RL's Razor: Why Online Reinforcement Learning Forgets Less",
find that the KL divergence between a model and its fine-tuned version, on the new task's inputs,
predicts how much it forgets.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor


def drift(before: Tensor, after: Tensor) -> float | None:
    """The mean over rows of KL(p_before || p_after) in nats, p the softmax of a row's logits.

    Args:
        before: [N, C], a new task's rows as the model answered them before it learned the task;
            C classes that it knew.
        after: [N, C], the same rows, classes and model, once it has learned the task.

    None where it is not defined: no rows, fewer than two classes, or a class that only one of the
    two can mean (its logit minus infinity).
    """
    if before.shape != after.shape:
        raise ValueError(f"logits {tuple(before.shape)} and {tuple(after.shape)} do not compare")
    if before.shape[0] == 0 or before.shape[1] < 2:
        return None
    log_p, log_q = (each.double().log_softmax(dim=1) for each in (before, after))
    meant = log_p.isfinite()
    if not torch.equal(meant, log_q.isfinite()):
        return None
    terms = torch.where(meant, log_p.exp() * (log_p - log_q), 0.0)
    return max(float(terms.sum(dim=1).mean()), 0.0)


@dataclass(frozen=True)
class Correlation:
    """The correlation of drift and forgetting over trials."""

    num: int
    """The number of trials."""
    pearson: float | None
    """Pearson's correlation; None for fewer than three trials, or where all have the same drift or
    forgetting."""
    spearman: float | None
    """Spearman's correlation, of the ranks; ties share their mean rank."""


def drift_and_forgetting(rows: Iterable[Mapping[str, Any]]) -> Correlation:
    """The correlation over the rows of a leaderboard (`drift`, `forgetting`) that have both."""
    pairs = [(row.get("drift"), row.get("forgetting")) for row in rows]
    known = [(x, y) for x, y in pairs if x is not None and y is not None]
    finite = [(x, y) for x, y in known if isfinite(x) and isfinite(y)]
    if len(finite) < 3:
        return Correlation(len(finite), None, None)
    values = torch.tensor(finite, dtype=torch.float64).T
    ranks = torch.stack([_ranks(each) for each in values])
    return Correlation(len(finite), _pearson(values), _pearson(ranks))


def _pearson(values: Tensor) -> float | None:
    """Pearson's correlation of two rows of numbers, [2, n]."""
    centred = values - values.mean(dim=1, keepdim=True)
    lengths = centred.norm(dim=1)
    # What rounding leaves of numbers that are all the same is no spread.
    if bool((lengths <= 1e-12 * values.abs().amax(dim=1)).any()):
        return None
    return float((centred[0] @ centred[1] / lengths.prod()).clamp(-1.0, 1.0))


def _ranks(values: Tensor) -> Tensor:
    """Ranks [n] from 0; values that are the same share the mean of theirs."""
    _, places, counts = values.unique(return_inverse=True, return_counts=True)
    ends = counts.cumsum(dim=0)
    return (ends - (counts + 1) / 2)[places].double()
