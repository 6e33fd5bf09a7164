"""Tables as their files say: csv, JSON and Parquet, every cell a text, nothing guessed.

A reader gives the columns that are asked for. The cells of a column are texts, None where a cell is
empty; the cells of a column of images are their encoded bytes or a path.
"""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import IO, Any

from lamina.registry import InputError, unknown
from lamina.streams.names import few_of, is_blank

KINDS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
}
"""The kind of a file by its ending."""
NEWLINE = b"\n"
ROW_IDS = "id"
"""A column of this name says what people call a row."""
_OPENERS: Mapping[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
MOST_UNPACKED = 200
"""A compressed file may be so many times larger when it is unpacked; texts hardly reach 20."""
_ALWAYS_UNPACKED = 2**26
"""This many bytes of any file are always unpacked."""
_DELIMITERS = {",": "','", ";": "';'", "\t": '"\\t"', "|": "'|'"}
"""Delimiters of csv files, and how a job writes them."""
_ENCODINGS = ("utf-8", "cp1252", "latin-1")
"""Encodings that are proposed for a text that has no byte order mark."""
MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order marks; the longer of two that begin alike comes first."""
_MAGIC = {
    b"PK\x03\x04": "a zip archive or an Excel file",
    b"\x1f\x8b": "a gzip file (its name should end in .gz)",
    b"PAR1": "a Parquet file (its name should end in .parquet)",
    b"%PDF": "a PDF file",
    b"\xd0\xcf\x11\xe0": "an old Excel file",
}
"""Kinds of files that are no text, by their first bytes."""

Cell = str | None
Image = bytes | Path
"""An encoded image, or the file that holds it."""


@dataclass(frozen=True)
class Format:
    """How the files of a table are written, as far as a job says."""

    delimiter: str | None = None
    encoding: str = "utf-8"
    quote: str = '"'
    field: str | None = None
    nested: tuple[str, ...] = ()
    """Columns whose cells may be lists and objects: they are given as JSON."""


@dataclass(frozen=True)
class Columns:
    """The columns of one file that were asked for."""

    file: str
    """Its path, for people."""
    names: tuple[str, ...]
    """The names of all its columns."""
    num_rows: int
    texts: Mapping[str, Sequence[Cell]] = field(default_factory=dict)
    """Columns of texts, by name."""
    images: Mapping[str, Sequence[Image | None]] = field(default_factory=dict)
    """Columns of images, by name."""
    ordered: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The names that a column may have in the data set's own order, where it lists them."""
    row_names: Sequence[str] | None = None
    """The name of each row for people, where it has a file of its own."""


def kind_of(path: Path) -> str | None:
    """csv, json or parquet, by the ending of a file's name; None for another."""
    ending = path.suffix.lower()
    if ending in _OPENERS:
        ending = Path(path.stem).suffix.lower()
    return KINDS.get(ending)


def read_table(
    path: Path,
    wanted: Collection[str],
    form: Format,
    declared: Mapping[str, Sequence[str]] | None = None,
    name: str | None = None,
) -> Columns:
    """The `wanted` columns of a file, as far as it has them.

    `declared` are the names of class labels that the data set lists elsewhere than in the file;
    `name` is what a person calls the file. Raises InputError, naming the job's key, where it does
    not parse.
    """
    named = name or str(path)
    kind = kind_of(Path(named)) or kind_of(path)
    try:
        if kind == "csv":
            columns = _read_csv(path, named, wanted, form)
        elif kind == "json":
            columns = _read_json(path, named, wanted, form)
        else:
            return _read_parquet(path, named, wanted, declared or {}, form.nested)
    except (OSError, EOFError, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"stream.path: {named!r} cannot be read: {reason}") from None
    return _with_names(columns, declared or {})


def check_columns(columns: Columns, keys: Sequence[tuple[str, str]], split: str) -> None:
    """Raises InputError where a column is not in a file, or twice; `keys` are the dotted keys of
    the job that name columns, each with one."""
    if not columns.names:
        raise InputError(f"stream.path: {columns.file!r} has no rows")
    for key, column in keys:
        if column not in columns.names:
            where = f", in {columns.file!r} (split {split!r})"
            raise InputError(f"{unknown(key, column, columns.names)}{where}")
        if columns.names.count(column) > 1:
            raise InputError(
                f"{key}: {columns.names.count(column)} columns of {columns.file!r} are "
                f"called {column!r} (allowed: one)"
            )


# csv


def _read_csv(path: Path, named: str, wanted: Collection[str], form: Format) -> Columns:
    with _text_of(path, named, form.encoding) as file, _long_cells():
        header: list[str] = []
        rows = csv.reader([])
        delimiter = ","
        try:
            lines, delimiter = _without_hint(file, named, form)
            rows = csv.reader(
                lines,
                delimiter=delimiter,
                strict=True,
                **({"quotechar": form.quote} if form.quote else {"quoting": csv.QUOTE_NONE}),
            )
            header = next((row for row in rows if any(not is_blank(cell) for cell in row)), [])
            if not header:
                raise InputError(f"stream.path: {named!r} cannot be read: it is empty")
            if any("\0" in name for name in header):
                raise _zero_bytes(named, form.encoding)
            if better := _better_delimiter(header, delimiter, wanted):
                raise InputError(
                    f"stream.delimiter: with {_DELIMITERS.get(delimiter, repr(delimiter))}, the "
                    f"columns of {named!r} are {few_of([repr(each) for each in header])}; "
                    f"did you mean {_DELIMITERS[better]}?"
                )
            indices = {name: header.index(name) for name in wanted if name in header}
            cells: dict[str, list[Cell]] = {name: [] for name in indices}
            number = 0
            for number, row in enumerate((each for each in rows if each), 1):
                if len(row) > len(header) and any(row[len(header) :]):
                    raise InputError(
                        f"stream.path: {named!r} has {len(row)} cells in row {number} (line "
                        f"{rows.line_num}), and {len(header)} columns; a cell with the delimiter "
                        "in it stands in quotes (stream.quote), or the delimiter is another "
                        "(stream.delimiter)"
                    )
                for name, index in indices.items():
                    cells[name].append(row[index] or None if index < len(row) else None)
        except csv.Error as error:
            if better := _better_delimiter(header, delimiter, wanted):
                raise InputError(
                    f"stream.delimiter: {named!r} does not parse with "
                    f"{_DELIMITERS.get(delimiter, repr(delimiter))}; did you mean "
                    f"{_DELIMITERS[better]}?"
                ) from None
            raise InputError(
                f"stream.path: {named!r} does not parse before line {rows.line_num + 1} ({error}); "
                "a quote within quotes is written twice, and stream.quote: '' reads a file whose "
                "quotes mean nothing"
            ) from None
        except UnicodeError as error:
            raise _wrong_encoding(path, named, form.encoding, error) from None
    return Columns(named, tuple(header), number, cells)


def _without_hint(file: IO[str], named: str, form: Format) -> tuple[Iterator[str], str]:
    """The lines of a csv file, and the delimiter of its cells: the job's, or that of a first line
    `sep=;`, which Excel writes and takes for no row. The line is empty then, so that lines keep
    their numbers. Raises InputError where the two differ."""
    first = file.readline()
    hint = re.fullmatch(r'"?sep=(.)"?\s*', first)
    if hint and form.delimiter not in (None, hint[1]):
        raise InputError(
            f"stream.delimiter: {form.delimiter!r} is not what {named!r} says in its first line, "
            f"{first.strip()!r} (allowed: null, or {hint[1]!r})"
        )
    is_tabbed = ".tsv" in [suffix.lower() for suffix in Path(named).suffixes]
    delimiter = hint[1] if hint else form.delimiter or ("\t" if is_tabbed else ",")
    return chain(["\n" if hint else first], file), delimiter


def _better_delimiter(header: Sequence[str], given: str, wanted: Collection[str]) -> str | None:
    """The delimiter under which a header that lacks wanted columns has them, or at least has
    several where the given one finds a single one."""
    if all(name in header for name in wanted):
        return None
    line = given.join(header)
    parsed = {
        each: next(csv.reader([line], delimiter=each), []) for each in _DELIMITERS if each != given
    }
    fitting = [each for each, row in parsed.items() if all(name in row for name in wanted)]
    if fitting:
        return fitting[0]
    most = max(parsed, key=lambda each: len(parsed[each]))
    return most if len(header) == 1 and len(parsed[most]) > 1 else None


@contextmanager
def _long_cells() -> Iterator[None]:
    """The csv module refuses cells of more than 128 kB unless told otherwise."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


# JSON


def _read_json(path: Path, named: str, wanted: Collection[str], form: Format) -> Columns:
    with _text_of(path, named, form.encoding) as file:
        try:
            content = file.read()
        except UnicodeError as error:
            raise _wrong_encoding(path, named, form.encoding, error) from None
    if is_blank(content):
        raise InputError(f"stream.path: {named!r} cannot be read: it is empty")
    if "\0" in content:
        raise _zero_bytes(named, form.encoding)
    parsed = _parsed(content, named)
    if form.field is not None:
        parsed = _within(parsed, form.field, named)
    records = _records(parsed, named, form.field)
    names: dict[str, None] = {}
    for record in records:
        names.update(dict.fromkeys(record))
    cells: dict[str, list[Cell]] = {name: [] for name in wanted if name in names}
    for number, record in enumerate(records, 1):
        for name, column in cells.items():
            value = record.get(name)
            if name in form.nested and isinstance(value, list | dict):
                column.append(json.dumps(value, ensure_ascii=False))
            else:
                column.append(_json_cell(value, name, number, named))
    return Columns(named, tuple(names), len(records), cells)


class _Number(str):
    """A number as the file writes it."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Raises ValueError where a key is given twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is given twice")
    return found


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique,
    parse_int=_Number,
    parse_float=_Number,
    # NaN and Infinity are no JSON; what writes a missing value so means an empty cell.
    parse_constant=lambda word: None if word == "NaN" else _Number(word),
)


def _parsed(content: str, named: str) -> Any:
    """A whole document, or one object on each line."""
    is_lined = {".jsonl", ".ndjson"} & {each.lower() for each in Path(named).suffixes}
    try:
        return _DECODER.decode(content)
    except RecursionError:
        raise InputError(
            f"stream.path: {named!r} is no JSON that is read (its lists are too deep)"
        ) from None
    except ValueError as error:
        lines = [
            (number, line) for number, line in enumerate(content.split("\n"), 1) if line.strip()
        ]
        objects = []
        for number, line in lines:
            try:
                objects.append(_DECODER.decode(line))
            except ValueError as wrong:
                if objects or is_lined or not isinstance(wrong, json.JSONDecodeError):
                    raise _no_json(named, number, wrong) from None
                line_of_document = getattr(error, "lineno", 1)
                raise _no_json(named, line_of_document, error) from None
        return objects


def _no_json(named: str, line: int, error: ValueError) -> InputError:
    said = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
    return InputError(f"stream.path: {named!r} is no JSON in line {line} ({said})")


def _within(content: Any, key: str, named: str) -> Any:
    """The value under a dotted key."""
    names = key.split(".")
    while names:
        if not isinstance(content, dict):
            raise InputError(f"stream.field: {key!r} leads into no object of {named!r}")
        # A name may have dots itself.
        whole = ".".join(names)
        name, names = (whole, []) if whole in content else (names[0], names[1:])
        if name not in content:
            raise unknown("stream.field", key, list(content))
        content = content[name]
    return content


def _records(content: Any, named: str, key: str | None) -> list[dict[str, Any]]:
    """A list of objects, one for each row."""
    if isinstance(content, dict):
        columns = list(content.values())
        if (
            columns
            and all(isinstance(each, list) for each in columns)
            and len({len(each) for each in columns}) == 1
            and not any(isinstance(cell, dict | list) for each in columns for cell in each)
        ):
            return [dict(zip(content, cells, strict=True)) for cells in zip(*columns, strict=True)]
        lists = [name for name, each in content.items() if _is_records(each)]
        if lists:
            inner = lists[0] if key is None else f"{key}.{lists[0]}"
            raise InputError(
                f"stream.field: the rows of {named!r} stand under keys "
                f"({', '.join(content)}); did you mean {inner!r}?"
            )
        if _is_by_columns(content):
            raise InputError(
                f"stream.path: {named!r} has its columns one after the other, as pandas writes "
                '(allowed: rows, as df.to_json(path, orient="records") writes)'
            )
        if not any(isinstance(each, dict | list) for each in columns):
            return [content]
    if isinstance(content, list) and any(isinstance(each, dict) for each in content):
        row = next((row for row, each in enumerate(content, 1) if not isinstance(each, dict)), 0)
        if row:
            raise InputError(
                f"stream.path: row {row} of {named!r} is {_kind_of_json(content[row - 1])} "
                "(allowed: an object)"
            )
    if not _is_records(content) and content != []:
        raise InputError(
            f"stream.path: {named!r} has no rows (allowed: a list of objects, or an object a line)"
        )
    records: list[dict[str, Any]] = content
    return records


def _is_records(content: Any) -> bool:
    return (
        isinstance(content, list)
        and bool(content)
        and all(isinstance(each, dict) for each in content)
    )


def _is_by_columns(content: Mapping[str, Any]) -> bool:
    """Whether an object is a table as pandas writes it unless told otherwise: of each column, or of
    each row, an object of its cells; or the same as names and lists."""
    values = list(content.values())
    if all(isinstance(each, dict) for each in values):
        return bool(values) and all(each.keys() == values[0].keys() for each in values)
    return {"columns", "data"} <= content.keys()


def _json_cell(value: Any, name: str, row: int, named: str) -> Cell:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or isinstance(value, str):
        return None if value is None or value == "" else str(value)
    if name == ROW_IDS:
        return None
    raise InputError(
        f"stream.path: column {name!r} of {named!r} has {_kind_of_json(value)} in row {row} "
        "(allowed: texts, numbers, true, false, null)"
    )


def _kind_of_json(value: Any) -> str:
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return "null" if value is None else "no object"


# Parquet


def _read_parquet(
    path: Path,
    named: str,
    wanted: Collection[str],
    declared: Mapping[str, Sequence[str]],
    nested: Collection[str],
) -> Columns:
    import pyarrow
    from pyarrow import parquet

    try:
        schema = parquet.read_schema(path)
        names = tuple(schema.names)
        there = [name for name in wanted if names.count(name) == 1]
        table = parquet.read_table(path, columns=there)
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"stream.path: {named!r} cannot be read: {reason}") from None
    listed = {**declared, **_listed(schema)}
    found = arrow_columns(table, named, there, listed, path.parent, nested)
    return replace(found, names=names)


def arrow_columns(
    table: Any,
    named: str,
    wanted: Collection[str],
    listed: Mapping[str, Sequence[str]],
    folder: Path = Path(),
    nested: Collection[str] = (),
) -> Columns:
    """The `wanted` columns of an Arrow table, as far as it has them.

    `listed` are the names that the codes of class labels stand for; `folder` is where images lie
    that are given by a relative path; `nested` columns may hold lists and objects, given as JSON.
    """
    import pyarrow

    texts: dict[str, Sequence[Cell]] = {}
    images: dict[str, Sequence[Image | None]] = {}
    for name in wanted:
        if name not in table.column_names:
            continue
        column = table.column(name)
        if name == ROW_IDS and pyarrow.types.is_nested(column.type):
            continue
        if _holds_images(column.type):
            images[name] = _image_cells(column, folder)
        elif name in listed and pyarrow.types.is_integer(column.type):
            texts[name] = _named(column.to_pylist(), listed[name], name, named)
        elif name in nested and pyarrow.types.is_nested(column.type):
            texts[name] = [
                None if cell is None else json.dumps(cell, ensure_ascii=False, default=str)
                for cell in column.to_pylist()
            ]
        else:
            texts[name] = _arrow_cells(column, name, named)
    names = tuple(table.column_names)
    return _with_names(Columns(named, names, table.num_rows, texts, images), listed)


def _listed(schema: Any) -> dict[str, Sequence[str]]:
    """The names of the class labels that `datasets` wrote into a schema."""
    try:
        written = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = written["info"]["features"]
        return {
            name: feature["names"]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _named(
    codes: Sequence[int | None], names: Sequence[str], column: str, named: str
) -> list[Cell]:
    """The names that codes stand for."""
    return [
        None if code is None else _name_of(str(code), names, column, row, named)
        for row, code in enumerate(codes, 1)
    ]


def _name_of(cell: str, names: Sequence[str], column: str, row: int, named: str) -> str:
    """The name that a code stands for; a cell that is no number as it is."""
    if not cell.removeprefix("-").isdecimal():
        return cell
    code = int(cell)
    if code < 0:
        raise InputError(
            f"stream.label_column: {column!r} is hidden ({code}) in row {row} of {named!r}; name "
            "another split"
        )
    if code >= len(names):
        raise InputError(
            f"stream.label_column: {column!r} is {code} in row {row} of {named!r}, which lists "
            f"{len(names)} classes (allowed: 0 to {len(names) - 1})"
        )
    return names[code]


def _arrow_cells(column: Any, name: str, named: str) -> list[Cell]:
    """Texts as they are; numbers, dates and truth values as Arrow writes them: 7, 1.5, true."""
    import pyarrow

    kind = column.type
    if pyarrow.types.is_nested(kind):
        raise InputError(
            f"stream.path: column {name!r} of {named!r} has no texts but {kind} (allowed: texts, "
            "numbers, dates, true and false)"
        )
    try:
        written: list[Cell] = column.cast(pyarrow.string()).to_pylist()
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"stream.path: column {name!r} of {named!r} has no texts but {kind} ({reason})"
        ) from None
    if pyarrow.types.is_floating(kind):
        return [None if cell in (None, "nan") else cell for cell in written]
    return [cell or None for cell in written]


def _holds_images(kind: Any) -> bool:
    """Whether cells are what `datasets` makes of images: their bytes, or bytes and a path."""
    import pyarrow

    if pyarrow.types.is_struct(kind):
        return "bytes" in [kind.field(index).name for index in range(kind.num_fields)]
    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))


def _image_cells(column: Any, folder: Path) -> list[Image | None]:
    cells: list[Image | None] = []
    for value in column.to_pylist():
        if isinstance(value, dict):
            content, path = value.get("bytes"), value.get("path")
            value = content or (None if path is None else folder / path)
        cells.append(value or None)
    return cells


# All kinds


def _with_names(columns: Columns, listed: Mapping[str, Sequence[str]]) -> Columns:
    """With the order of the names that are listed, and names for the codes that stand in texts."""
    texts = dict(columns.texts)
    ordered = {name: names for name, names in listed.items() if name in texts}
    for name, names in ordered.items():
        known = set(names)
        texts[name] = [
            cell
            if cell is None or cell in known
            else _name_of(cell, names, name, row, columns.file)
            for row, cell in enumerate(texts[name], 1)
        ]
    return replace(columns, texts=texts, ordered=ordered)


@contextmanager
def _text_of(path: Path, named: str, encoding: str) -> Iterator[IO[str]]:
    """A file as text, its line ends as they are, without a byte order mark. Raises InputError for
    an encoding that is not known."""
    codec = _codec(encoding)
    with open_bytes(path, named) as content:
        first = content.read(max(map(len, (*MARKS, *_MAGIC))))
        for magic, what in _MAGIC.items():
            if first.startswith(magic):
                raise InputError(f"stream.path: {named!r} is no text but {what}")
        skipped = 0
        # A codec that does not know the mark would make letters of it.
        if codec not in ("utf-8-sig", "utf-16", "utf-32"):
            skipped = next((len(mark) for mark in MARKS if first.startswith(mark)), 0)
        content.seek(skipped)
        yield io.TextIOWrapper(content, encoding=codec, newline="")


def _codec(encoding: str) -> str:
    try:
        name = codecs.lookup(encoding).name
        # Python calls compressions and other things codecs, too.
        "".encode(encoding)
    except (LookupError, ValueError):
        known = (*_ENCODINGS, "utf-16", "shift_jis", "gb18030", "big5", "euc_kr", "koi8-r")
        near = get_close_matches(encoding, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"stream.encoding: {encoding!r} is unknown{hint} (allowed: what Python knows, such as "
            f"{', '.join(known)})"
        ) from None
    return "utf-8-sig" if name == "utf-8" else name


def open_bytes(path: Path, named: str) -> IO[bytes]:
    """A file, decompressed where its name says that it is compressed."""
    opener = _OPENERS.get(Path(named).suffix.lower())
    if opener is None:
        return path.open("rb")
    most = MOST_UNPACKED * path.stat().st_size + _ALWAYS_UNPACKED
    return io.BufferedReader(_Bounded(opener(path, "rb"), named, most))


class _Bounded(io.RawIOBase):
    """A file that is unpacked as it is read, and refused where it grows beyond all measure."""

    def __init__(self, file: IO[bytes], named: str, most: int) -> None:
        self._file = file
        self._named = named
        self._most = most

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        content = self._file.read(len(buffer))
        buffer[: len(content)] = content
        if self._file.tell() > self._most:
            raise InputError(
                f"stream.path: {self._named!r} is more than {MOST_UNPACKED} times larger when it "
                "is unpacked (allowed: less, or unpack it yourself)"
            )
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()


def _zero_bytes(named: str, encoding: str) -> InputError:
    return InputError(
        f"stream.encoding: {named!r} is not {encoding} (it has zero bytes); did you mean "
        "'utf-16-le'?"
    )


def _wrong_encoding(path: Path, named: str, encoding: str, error: UnicodeError) -> InputError:
    """Says which encoding would read the file."""
    with open_bytes(path, named) as file:
        content = file.read()
    marked = next((name for mark, name in MARKS.items() if content.startswith(mark)), None)
    if marked is None and b"\0" in content:
        marked = "utf-16-le" if b"\0" in content[1::2] else "utf-16-be"
    try:
        content.decode(_codec(encoding))
        why = " ".join(str(error).split())
    except UnicodeDecodeError as first:
        line = content.count(NEWLINE, 0, first.start) + 1
        why = f"byte 0x{content[first.start : first.start + 1].hex()} in line {line}"
    except UnicodeError as first:
        why = " ".join(str(first).split())
    candidates = ([marked] if marked else []) + list(_ENCODINGS)
    fitting = [each for each in candidates if _decodes(content, each)]
    hint = f"; did you mean {fitting[0]!r}?" if fitting else ""
    return InputError(f"stream.encoding: {named!r} is not {encoding} ({why}){hint}")


def _decodes(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeError:
        return False
    return True
