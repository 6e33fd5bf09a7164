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


@dataclass(frozen=True)
class Answers:
    """A trial's answers to the test part, by class."""

    classes: Sequence[str]
    """C names: by task, then by name; last those that are only answered."""
    confusion: Tensor
    """int64 [C, C]: how many rows of class i (down) were answered with class j (across)."""

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


def read_answers(path: Path) -> Answers:
    """The answers in a file. Raises InputError where it is no CSV file with `COLUMNS`."""
    as_text = pyarrow.csv.ConvertOptions(
        column_types={"label": pyarrow.string(), "predicted": pyarrow.string()},
        include_columns=list(COLUMNS),
    )
    quoted = pyarrow.csv.ParseOptions(newlines_in_values=True)
    try:
        table = pyarrow.csv.read_csv(path, parse_options=quoted, convert_options=as_text)
    except (pyarrow.ArrowInvalid, KeyError) as error:
        raise InputError(f"{str(path)!r}: {error} (needed: {', '.join(COLUMNS)})") from error
    labels, predicted = table["label"], table["predicted"]
    in_order = table.sort_by([("task", "ascending"), ("label", "ascending")])["label"]
    both = pyarrow.chunked_array([*in_order.chunks, *predicted.chunks], type=pyarrow.string())
    names = pyarrow.compute.unique(both)
    confusion = confusion_matrix(
        _numbers(labels, names), _numbers(predicted, names), num_classes=len(names)
    )
    return Answers(names.to_pylist(), confusion)


def _numbers(values: pyarrow.ChunkedArray, names: pyarrow.Array) -> Tensor:
    places = pyarrow.compute.index_in(values, value_set=names).to_numpy()
    return torch.as_tensor(places.astype("int64"))
