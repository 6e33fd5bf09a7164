"""The rows of all files that a stream is read from, as one sequence."""

from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import chain
from typing import Any

from lamina.core import Part
from lamina.registry import InputError
from lamina.streams.dates import read_dates
from lamina.streams.names import is_blank
from lamina.streams.tables import ROW_IDS, Cell, Columns

BY = "scenario.by"
"""The key that names the column of dates."""


class Records:
    """The rows of all splits, one file after the other."""

    def __init__(self, files: Sequence[tuple[Part, str, Columns]]) -> None:
        self.files = files
        self.parts = [part for part, _, columns in files for _ in range(columns.num_rows)]
        """The part of each row."""

    def __len__(self) -> int:
        return len(self.parts)

    def texts(self, column: str) -> list[str | None]:
        """A column of texts."""
        return list(chain.from_iterable(columns.texts[column] for *_, columns in self.files))

    def images(self, column: str) -> list[Any]:
        """A column of images."""
        return list(chain.from_iterable(columns.images[column] for *_, columns in self.files))

    def made(self, make: Callable[[Columns], list[Cell]]) -> list[Cell]:
        """The result of `make` for each file, one after the other."""
        return list(chain.from_iterable(make(columns) for *_, columns in self.files))

    def listed(self, column: str) -> list[str]:
        """The names that the files list for a column, in their order."""
        listed = (columns.ordered.get(column, ()) for *_, columns in self.files)
        return list(dict.fromkeys(chain.from_iterable(listed)))

    def where(self, row: int, path: str | None = None) -> str:
        """What a person calls a row: its file where it has one, or its number in split or file,
        with its id where the table has such a column."""
        splits = [split for _, split, _ in self.files]
        for _, split, columns in self.files:
            if row >= columns.num_rows:
                row -= columns.num_rows
                continue
            if columns.row_names is not None:
                return repr(columns.row_names[row])
            ids = columns.texts.get(ROW_IDS)
            named = "" if ids is None or ids[row] is None else f" (id {ids[row]})"
            of = f" of {columns.file!r}" if splits.count(split) > 1 or path else ""
            of = of or (f" of split {split!r}" if len(set(splits)) > 1 else "")
            return f"row {row + 1}{named}{of}"
        raise IndexError(row)


def is_hole(cell: object) -> bool:
    """Whether a cell is empty, or has blanks only."""
    return cell is None or (isinstance(cell, str) and is_blank(cell))


def times_of(rows: Records, column: str, kept: Sequence[int]) -> list[datetime]:
    """The time of each row that is kept."""
    cells = rows.texts(column)
    dates = [str(cells[row]) for row in kept]
    return read_dates(dates, f"{BY}: {column!r}", lambda index: rows.where(kept[index]))


def check_unicode(texts: Sequence[str], key: str, kept: Sequence[int], rows: Records) -> None:
    """Raises InputError for half a character (a lone surrogate), which no tokenizer takes."""
    for index, text in enumerate(texts):
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                what = key.removeprefix("stream.").removesuffix("_column")
                raise InputError(
                    f"{key}: the {what} of {rows.where(kept[index])} has half a character (a "
                    "surrogate of UTF-16 without the other)"
                ) from None
