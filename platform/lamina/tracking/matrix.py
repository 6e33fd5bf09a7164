"""The matrix R as a JSON document: the artifact that reports and other tools read."""

from collections.abc import Sequence
from math import isnan
from typing import TypedDict

Rows = Sequence[Sequence[float | None]]
"""R[t][i], the measure on task i after training task t; None where it is undefined."""
FORMAT = 1
"""One more whenever the keys of a document or their meaning change."""


class MatrixDocument(TypedDict):
    """R of both parts, [tasks, tasks] each, null where undefined or not reached."""

    format: int
    tasks: list[str]
    validation: list[list[float | None]]
    test: list[list[float | None]]


def matrix_document(tasks: Sequence[str], validation: Rows, test: Rows) -> MatrixDocument:
    """The document of a stream of `tasks` of which the first `len(validation)` are trained; the row
    of a task that was not evaluated may be empty."""
    return {
        "format": FORMAT,
        "tasks": list(tasks),
        "validation": _square(validation, len(tasks)),
        "test": _square(test, len(tasks)),
    }


def _square(rows: Rows, size: int) -> list[list[float | None]]:
    square: list[list[float | None]] = [[None] * size for _ in range(size)]
    for t, row in enumerate(rows):
        for i, value in enumerate(row):
            square[t][i] = None if value is None or isnan(value) else float(value)
    return square
