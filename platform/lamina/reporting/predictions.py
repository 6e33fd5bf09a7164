"""Reads a trial's answers, predictions.csv, and says how they are spread over the classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.compute
import pyarrow.csv
import torch
from torch import Tensor

from lamina.evaluation.classification import class_accuracy, confusion_matrix, macro_f1
from lamina.registry import InputError

COLUMNS = ("row", "task", "label", "predicted")
"""Of predictions.csv: the row's id, the task that it is of, its class and the answer."""
PLACE = "place"
"""A column that it may have: how good the right class was among all, from 1."""


@dataclass(frozen=True)
class ClassReport:
    """A trial's answers to the test part, by class."""

    classes: Sequence[str]
    """C names: task by task, and by name within a task; last those that are only answered."""
    confusion: Tensor
    """int64 [C, C]: how many rows of class i (down) were answered with class j (across)."""
    places: Tensor | None = None
    """int64 [N], the place of each row's class among all, from 1; None where it is not known."""

    @property
    def accuracy(self) -> Tensor:
        """float64 [C], of each class; NaN of one that is only answered."""
        return class_accuracy(self.confusion)

    @property
    def macro_f1(self) -> float:
        """Every class counts the same."""
        return macro_f1(self.confusion)

    @property
    def rows(self) -> Tensor:
        """int64 [C], how many rows each class has."""
        return self.confusion.sum(dim=1)

    def top(self, k: int) -> float | None:
        """The share of rows whose class is among the k best; None where places are not known."""
        return None if self.places is None else float((self.places <= k).double().mean())


def read_class_report(path: Path) -> ClassReport:
    """The answers in a file. Raises InputError where it is no CSV file with `COLUMNS`."""
    texts = dict.fromkeys(("task", "label", "predicted"), pyarrow.string())
    try:
        table = pyarrow.csv.read_csv(
            path,
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(column_types=texts),
        )
        labels, predicted = table["label"], table["predicted"]
        names = _names(table["task"], labels, predicted)
    except (pyarrow.ArrowInvalid, KeyError) as error:
        raise InputError(f"{str(path)!r}: {error} (needed: {', '.join(COLUMNS)})") from error
    confusion = confusion_matrix(
        _places(labels, names), _places(predicted, names), num_classes=len(names)
    )
    places = torch.tensor(table[PLACE].to_numpy()) if PLACE in table.column_names else None
    return ClassReport(names.to_pylist(), confusion, places)


def _names(
    tasks: pyarrow.ChunkedArray, labels: pyarrow.ChunkedArray, predicted: pyarrow.ChunkedArray
) -> pyarrow.Array:
    """Every class once, in the order of `ClassReport.classes`."""
    order = pyarrow.compute.index_in(tasks, value_set=pyarrow.compute.unique(tasks))
    table = pyarrow.table({"task": order, "label": labels})
    by_task = table.sort_by([("task", "ascending"), ("label", "ascending")])["label"]
    both = pyarrow.chunked_array([*by_task.chunks, *predicted.chunks], type=pyarrow.string())
    return pyarrow.compute.unique(both)


def _places(values: pyarrow.ChunkedArray, names: pyarrow.Array) -> Tensor:
    places = pyarrow.compute.index_in(values, value_set=names).to_numpy()
    return torch.as_tensor(places.astype("int64"))
