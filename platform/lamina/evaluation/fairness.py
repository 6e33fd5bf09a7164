"""How a number differs between clients. A client for which it is not defined (None) does not
count."""

from collections.abc import Sequence
from math import ceil
from statistics import fmean, pstdev

import numpy as np

QUANTILES = {"min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9, "max": 1.0}
"""The quantiles that are reported in place of every client's number."""


def mean_over_clients(
    values: Sequence[float | None], weights: Sequence[float] | None = None
) -> float | None:
    """sum_c w_c v_c / sum_c w_c; all w_c are 1 unless given. None where no weight is left."""
    given = [1.0] * len(values) if weights is None else weights
    known = [
        (weight, value)
        for weight, value in zip(given, values, strict=True)
        if value is not None and weight > 0
    ]
    total = sum(weight for weight, _ in known)
    return sum(weight * value for weight, value in known) / total if total else None


def quantiles(values: Sequence[float | None]) -> dict[str, float]:
    """The values of QUANTILES over the clients, with linear interpolation; empty without
    clients."""
    known = [value for value in values if value is not None]
    if not known:
        return {}
    found = np.quantile(known, list(QUANTILES.values()))
    return dict(zip(QUANTILES, map(float, found), strict=True))


def fairness(values: Sequence[float | None]) -> dict[str, float]:
    """How evenly clients are served, for n clients with the values v; nothing of none.

    `std`: sqrt((1/n) sum (v - mean)^2). `min`. `worst_decile`: the mean of the ceil(n/10) smallest
    (Li et al., 2020, q-FFL). `jain`: (sum v)^2 / (n sum v^2), from 1/n (one client has all) to 1
    (all alike; Jain et al., 1984); 1 where all are 0.
    """
    known = sorted(value for value in values if value is not None)
    if not known:
        return {}
    squares = sum(value * value for value in known)
    return {
        "std": pstdev(known),
        "min": known[0],
        "worst_decile": fmean(known[: ceil(len(known) / 10)]),
        "jain": sum(known) ** 2 / (len(known) * squares) if squares else 1.0,
    }
