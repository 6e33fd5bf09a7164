"""Any data set in files or on the Hugging Face hub: csv, JSON and Parquet as they are written, a
folder of images, and whatever else `datasets` reads."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import torch

from lamina.core import LazyValues, Modality, Part
from lamina.registry import InputError
from lamina.streams.base import Asked, Note, Table
from lamina.streams.checks import text_key
from lamina.streams.files import DataSet, find
from lamina.streams.images import Background, EncodedImages
from lamina.streams.names import (
    alike,
    counted,
    few_of,
    is_blank,
    natural_order,
    renamed,
    shown,
)
from lamina.streams.records import BY, Records, check_unicode, is_hole, times_of
from lamina.streams.table_source import TableSource
from lamina.streams.tables import ROW_IDS, Cell, Columns, Format, check_columns

_TEXT, _IMAGE, _LABEL, _TASK, _CLIENT = (
    f"stream.{each}_column" for each in ("text", "image", "label", "task", "client")
)
Keys = Sequence[tuple[str, str]]
"""Dotted keys of the job that name columns, each with one of its columns."""


@dataclass(frozen=True)
class HuggingFace(TableSource):
    """Texts or images with a label each.

    Labels, tasks, clients and texts are names, read as they are written: 007 is not 7, None and NA
    are words, and only an empty cell is empty. Images are held encoded and decoded when they are
    needed. A row that is equal to another one (texts: but for case and spaces) goes to the same
    part as it where parts are carved.
    """

    path: str
    """A file (csv, tsv, json, jsonl, parquet; also compressed: .gz, .bz2, .xz), a pattern such as
    `data/*.csv` for several files that are one split, a folder (of such files, or of images) or a
    hub id."""
    text_column: str | tuple[str, ...] | None = None
    """The column of texts, or a list of columns (`[subject, body]`) whose cells make one text;
    empty ones among them are left out. This or `image_column` must be given."""
    text_separator: str = "\n"
    """What stands between the cells of several text columns."""
    image_column: str | None = None
    """The column of images; a folder of images calls it `image`."""
    background: Background = "white"
    """What transparent images are laid on."""
    label_column: str = "label"
    """The column of classes: class labels, texts or numbers."""
    empty: Literal["refuse", "skip"] = "refuse"
    """What becomes of rows with an empty cell (or one of blanks only) in a column that is read: the
    data set is refused, or they are left out."""
    alike: Literal["keep", "merge"] = "keep"
    """What becomes of labels, tasks or clients that differ in blanks, capitals, invisible
    characters or Unicode form only: they stay different, or are read as the most frequent one."""
    min_per_class: int | None = None
    """A class (of a task) with fewer rows, or with too few to have one in every part, is left out;
    null refuses a stream that has such a class."""

    def __post_init__(self) -> None:
        if self.text_column is not None and not isinstance(self.text_column, str):
            # As JSON has it, a list.
            object.__setattr__(self, "text_column", tuple(self.text_column))
        self._check_text_columns()
        if (self.text_column is None) == (self.image_column is None):
            raise InputError(
                "stream.text_column: give this or stream.image_column, and not both "
                f"(given: {self.text_column!r} and {self.image_column!r})"
            )
        super().__post_init__()
        if self.min_per_class is not None and self.min_per_class < 1:
            raise InputError(
                f"stream.min_per_class: {self.min_per_class} is too few (allowed: null, 1, 2, ...)"
            )

    def _check_text_columns(self) -> None:
        columns = self.text_columns
        if self.text_column is not None and (not columns or len(set(columns)) < len(columns)):
            raise InputError(
                f"stream.text_column: {list(columns)} is not allowed (allowed: a column, or a list "
                "of different ones)"
            )
        if self.text_separator != "\n" and len(columns) < 2:
            raise InputError(
                f"stream.text_separator: {self.text_separator!r} changes nothing, as it stands "
                "between several columns of stream.text_column"
            )

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns that make a text, in order; none where rows are images."""
        if self.text_column is None:
            return ()
        return (self.text_column,) if isinstance(self.text_column, str) else self.text_column

    def texts(self, columns: Columns) -> list[Cell]:
        """The text of each row of a file, None where all its cells are blank."""
        cells = zip(*(columns.texts[each] for each in self.text_columns), strict=True)
        return [self._text(each) for each in cells]

    def _text(self, cells: Sequence[Cell]) -> Cell:
        if len(cells) == 1:
            return cells[0]
        return self.text_separator.join(each for each in cells if each and not is_blank(each))

    @property
    def modality(self) -> Modality:
        """As the column that is given."""
        return "image" if self.text_column is None else "text"

    def load(self, seed: int) -> Table:
        """All rows, split by split, whatever the seed.

        Raises InputError where the data cannot be found or read, a split or a column is not there,
        or rows are empty and are not to be skipped.
        """
        return self._table(None)

    def load_by(self, seed: int, column: str) -> Table:
        """All rows, with the time of each that a column says. Raises InputError as `load` does, and
        where the dates of the column cannot be read."""
        return self._table(column)

    def _table(self, by: str | None) -> Table:
        found = find(self.path, self.config, self.revision, self._format)
        self._check_keys(found)
        chosen = self.chosen(found.splits)
        keys = self._keys(by)
        wanted = list(dict.fromkeys([*(column for _, column in keys), ROW_IDS]))
        files = []
        for part, split in chosen.items():
            for read in found.splits[split]:
                columns = read(wanted)
                check_columns(columns, keys, split)
                _check_kinds(columns, keys)
                files.append((part, split, columns))
        rows = Records(files)
        if not rows.parts:
            raise InputError(f"stream.path: {self.path!r} has no rows")
        self.check_not_void(rows, chosen)
        kept, notes = self._kept(rows, by)
        if not any(rows.parts[row] == "train" for row in kept):
            raise InputError(f"stream.empty: no row of split {self.train_split!r} is left")
        names: dict[str, list[str]] = {}
        for key, column in keys:
            if key in (_LABEL, _TASK, _CLIENT):
                cells = rows.texts(column)
                names[key] = [str(cells[row]) for row in kept]
                check_unicode(names[key], key, kept, rows)
                names[key], note = self._read_as_one(names[key], key, rows, kept)
                notes += [note] if note else []
        labels = names[_LABEL]
        parts = [rows.parts[row] for row in kept]
        self._check_same_labels(labels, parts, chosen)
        values, templates = self._values(rows, kept)
        notes += self._not_read(found, chosen, templates)
        if found.left_out:
            notes.append(_left_out_note(found.left_out))
        return Table(
            modality=self.modality,
            values=values,
            labels=labels,
            classes=_in_order(labels, rows.listed(self.label_column)),
            groups=names.get(_TASK),
            times=None if by is None else times_of(rows, by, kept),
            parts=parts,
            templates=templates,
            owners={self.client_column: names[_CLIENT]} if self.client_column else {},
            notes=notes,
            min_per_class=self.min_per_class,
        )

    def load_asked(self) -> Asked:
        """The rows of every split, to be answered: labels are read if they are there, and empty
        rows are told apart and not refused.

        Raises InputError where the data cannot be found or read, or the column of texts or images
        is not there.
        """
        found = find(self.path, self.config, self.revision, self._format)
        self._check_keys(found)
        keys = [each for each in self._keys(None) if each[0] in (_TEXT, _IMAGE)]
        wanted = [*(column for _, column in keys), self.label_column, ROW_IDS]
        files: list[tuple[Part, str, Columns]] = []
        for split, readers in found.splits.items():
            for read in readers:
                columns = read(wanted)
                check_columns(columns, keys, split)
                _check_kinds(columns, keys)
                files.append(("test", split, columns))
        rows = Records(files)
        if not len(rows):
            raise InputError(f"stream.path: {self.path!r} has no rows")
        _, cells = next(self._cells(rows, None))
        kept = [row for row, cell in enumerate(cells) if not is_hole(cell)]
        values, _ = self._values(rows, kept)
        has_labels = all(self.label_column in each.names for *_, each in files)
        labels = rows.texts(self.label_column) if has_labels else None
        return Asked(
            values=values,
            rows=kept,
            names=[rows.where(row) for row in kept],
            labels=labels and [labels[row] for row in kept],
            total=len(rows),
        )

    @property
    def _format(self) -> Format:
        return Format(self.delimiter, self.encoding, self.quote, self.field)

    def _keys(self, by: str | None) -> Keys:
        """The columns that are read."""
        texts = [(_TEXT, column) for column in self.text_columns]
        single = {
            _IMAGE: self.image_column,
            _LABEL: self.label_column,
            _TASK: self.task_column,
            _CLIENT: self.client_column,
            BY: by,
        }
        return [*texts, *((key, column) for key, column in single.items() if column is not None)]

    def _check_keys(self, found: DataSet) -> None:
        """Raises InputError for a key that says how other files than these are read."""
        found.check_form(self._format, self.path)
        if self.background != "white" and self.modality != "image":
            raise InputError(
                f"stream.background: {self.background!r} changes nothing for texts (allowed: white)"
            )

    def _kept(self, rows: Records, by: str | None) -> tuple[list[int], list[Note]]:
        """The rows without an empty text, image or other cell, and what to say of the others."""
        empty: dict[str, list[int]] = {}
        for column, cells in self._cells(rows, by):
            holes = [row for row, cell in enumerate(cells) if is_hole(cell)]
            if holes:
                empty[column] = holes
        if not empty:
            return list(range(len(rows))), []
        gone = set(chain.from_iterable(empty.values()))
        each = "; ".join(
            f"{len(holes):,} without {column!r} ({few_of([rows.where(row) for row in holes], 5)})"
            for column, holes in empty.items()
        )
        said = f"{len(gone):,} of {counted(len(rows), 'row')} {'is' if len(gone) == 1 else 'are'}"
        if self.empty == "refuse":
            raise InputError(
                f"stream.empty: {said} empty: {each}; fill them, or leave them out with "
                "stream.empty: skip"
            )
        note = Note(
            "empty_rows",
            {"rows": len(gone), "of": len(rows)},
            f"{said} empty and left out: {each} (stream.empty: skip)",
        )
        return [row for row in range(len(rows)) if row not in gone], [note]

    def _cells(self, rows: Records, by: str | None) -> Iterator[tuple[str, Sequence[Any]]]:
        """The cells that each row needs, by their names for people, text or image first. Texts of
        several columns are joined."""
        if self.text_columns:
            yield " and ".join(self.text_columns), rows.made(self.texts)
        for column in dict.fromkeys(column for key, column in self._keys(by) if key != _TEXT):
            if column == self.image_column:
                yield column, rows.images(column)
            elif column != self.text_column:
                yield column, rows.texts(column)

    def _read_as_one(
        self, names: list[str], key: str, rows: Records, kept: Sequence[int]
    ) -> tuple[list[str], Note | None]:
        """Names, where those that look alike are merged if the job says so, and the notes on
        them."""
        found = alike(names)
        if not found:
            return names, None
        read_as = renamed(found)
        at: dict[str, list[int]] = {}
        for index, name in enumerate(names):
            if name in read_as or name in found:
                at.setdefault(name, []).append(kept[index])
        groups = []
        for most, others in found.items():
            said = [
                f"{shown(other)} ({few_of([rows.where(row) for row in at[other]])})"
                for other in others
            ]
            groups.append(
                f"{', '.join(said)} beside {shown(most)} ({counted(len(at[most]), 'row')})"
            )
        number = len(read_as) + len(found)
        num_rows = sum(len(at[other]) for other in read_as)
        what = key.removeprefix("stream.").removesuffix("_column")
        does = "are read as one" if self.alike == "merge" else "stay different"
        hint = "" if self.alike == "merge" else "; stream.alike: merge reads them as one"
        note = Note(
            f"alike_{what}s",
            {"names": number, "look_like": len(found), "rows": num_rows},
            f"{number:,} {what}s look like {len(found):,} and {does}: {few_of(groups, 5)}{hint}",
        )
        if self.alike == "merge":
            names = [read_as.get(name, name) for name in names]
        return names, note

    def _check_same_labels(
        self, labels: Sequence[str], parts: Sequence[Part], chosen: Mapping[Part, str]
    ) -> None:
        """Raises InputError where a split has none of the labels of the training split: it calls
        them by other names, or by numbers."""
        of_part: dict[Part, dict[str, None]] = {part: {} for part in chosen}
        for label, part in zip(labels, parts, strict=True):
            of_part[part][label] = None
        for part, split in chosen.items():
            if of_part[part] and not of_part[part].keys() & of_part["train"].keys():
                ours, theirs = (
                    few_of([shown(label) for label in of_part[each]]) for each in ("train", part)
                )
                raise InputError(
                    f"stream.{part}_split: {split!r} has none of the labels of "
                    f"{chosen['train']!r}: {theirs} against {ours}; labels go by name, so every "
                    "split must call a class the same"
                )

    def _values(self, rows: Records, kept: Sequence[int]) -> tuple[Sequence[Any], Sequence[str]]:
        """Texts or images, and what tells equal ones."""
        if self.text_columns:
            cells = rows.made(self.texts)
            texts = [str(cells[row]) for row in kept]
            check_unicode(texts, _TEXT, kept, rows)
            return texts, [text_key(text) for text in texts]
        assert self.image_column is not None
        encoded = rows.images(self.image_column)
        images = EncodedImages(
            [encoded[row] for row in kept],
            [rows.where(row, self.path) for row in kept],
            self.background,
        )
        images.check()
        values = LazyValues(images, torch.arange(len(images)))
        return values, [images.digest(row).hex() for row in range(len(images))]

    def _not_read(
        self, found: DataSet, chosen: Mapping[Part, str], known: Sequence[str]
    ) -> Iterator[Note]:
        """The note on a split that the data set has and the job does not name."""
        for part in ("validation", "test"):
            if part in chosen or part not in found.splits or part in chosen.values():
                continue
            files = [read(self.text_columns) for read in found.splits[part]]
            number = sum(columns.num_rows for columns in files)
            readable = [each for each in files if set(self.text_columns) <= each.texts.keys()]
            texts = [text for each in readable for text in self.texts(each)]
            shared = set(known)
            again = sum(text is not None and text_key(text) in shared for text in texts)
            also = f"; {again:,} of them are in train as well" if again else ""
            yield Note(
                f"{part}_not_read",
                {"rows": number, f"{part}_rows_in_train": again},
                f"split {part!r} with {counted(number, 'row')} is not read, and a {part} part is "
                f"carved out of {self.train_split!r} (stream.{part}_split: {part} reads it){also}",
            )


def _check_kinds(columns: Columns, keys: Keys) -> None:
    """Raises InputError where a column of images is to be read as texts, or the other way round."""
    for key, column in keys:
        wanted, given = ("images", "texts") if key == _IMAGE else ("texts", "images")
        if column not in getattr(columns, wanted):
            raise InputError(f"{key}: {column!r} has no {wanted} but {given}, in {columns.file!r}")


def _left_out_note(files: Sequence[str]) -> Note:
    are = "is no image" if len(files) == 1 else "are no images"
    return Note(
        "files_left_out",
        {"files": len(files)},
        f"{counted(len(files), 'file')} beside the images {are} by name and left out: "
        f"{few_of([repr(name) for name in files])}",
    )


def _in_order(labels: Sequence[str], listed: Sequence[str]) -> list[str]:
    """The labels that occur: as the data set lists them, or else by number or alphabet."""
    return list(_each_once(labels, listed))


def _each_once(labels: Sequence[str], listed: Sequence[str]) -> Iterator[str]:
    occurring = set(labels)
    yield from (name for name in listed if name in occurring)
    yield from natural_order(occurring.difference(listed))
