"""The composite score of Diaz-Rodriguez, Lomonaco et al. (2018), "Don't forget, there is more than
forgetting": seven criteria, each in [0, 1], and their mean. N tasks, R[i, j] from 0."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from lamina.evaluation.accuracy_matrix import Row

CRITERIA = (
    "accuracy",
    "remembering",
    "positive_backward_transfer",
    "forward_transfer",
    "model_size_efficiency",
    "sample_storage_efficiency",
    "computational_efficiency",
)


def criteria(
    rows: Sequence[Row],
    model_sizes: Sequence[float],
    memory_sizes: Sequence[float],
    data_size: float,
    operations: Sequence[float],
    operations_of_one_pass: Sequence[float],
) -> dict[str, float]:
    """The criteria that are defined, by name (section 3 of the paper).

    `model_sizes` and `memory_sizes` after each task, the latter in the unit of `data_size`, the
    size of the whole stream; `operations` that learning each task took, and those of one forward
    and one backward over its rows, of which `epsilon` times as many count as ideal.
    """
    found = {
        "accuracy": _mean([row[j] for i, row in enumerate(rows) for j in range(i + 1)]),
        "forward_transfer": _mean([value for i, row in enumerate(rows) for value in row[i + 1 :]]),
        "model_size_efficiency": min(1.0, fmean(model_sizes[0] / size for size in model_sizes)),
        "sample_storage_efficiency": 1 - min(1.0, fmean(m / data_size for m in memory_sizes)),
    }
    transfer = _backward_transfer(rows)
    if transfer is not None:
        found["remembering"] = 1 - abs(min(transfer, 0.0))
        found["positive_backward_transfer"] = max(transfer, 0.0)
    shares = [
        once / total
        for once, total in zip(operations_of_one_pass, operations, strict=True)
        if total > 0
    ]
    if shares:
        found["computational_efficiency"] = min(1.0, fmean(shares))
    return {name: value for name in CRITERIA if (value := found.get(name)) is not None}


def continual_score(found: Mapping[str, float]) -> float:
    """CL_score with equal weights: the mean of the criteria that are defined, where the paper has
    all seven (a class-incremental stream has no forward transfer)."""
    return fmean(found.values())


def _backward_transfer(rows: Sequence[Row]) -> float | None:
    """The mean over all i > j of R[i, j] - R[j, j]: after every task, not the last one only."""
    changes: Row = []
    for i, row in enumerate(rows):
        for j in range(i):
            now, then = row[j], rows[j][j]
            changes.append(None if now is None or then is None else now - then)
    return _mean(changes)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None
