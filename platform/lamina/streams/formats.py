"""How a csv or JSON file is written, found out from its bytes: encoding, delimiter, quotes, and the
key that the rows stand under. What is found are the keys that read it: see `tables.Format`."""

import csv
import io
import json
import lzma
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from lamina.registry import InputError
from lamina.streams.names import is_blank
from lamina.streams.tables import MARKS, Format, kind_of, open_bytes

_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_ROWS = 1000
"""Rows that a delimiter is tried on."""
_SAMPLE = 200_000
"""Bytes that the encoding is guessed from, of the lines that are not ASCII."""
_GUESSED = [
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "koi8_r"),
    *("cp932", "euc_jp", "gb18030", "big5", "euc_kr"),
]
"""Encodings that are guessed; rarer ones would fit everything, and win by chance."""
_MOST_MESS = 0.3
"""What charset-normalizer may find odd in a text; its own 0.2 refuses short Japanese ones."""
_WESTERN = "cp1252"
"""What Windows writes in western Europe and America, and Latin-1 with a few letters more."""


@dataclass(frozen=True)
class Written:
    """How a file is written, and why this is thought."""

    form: Format = field(default_factory=Format)
    reasons: Mapping[str, str] = field(default_factory=dict)
    """By its name in `Format`, why something is not what it is by default."""


def detect_format(path: Path) -> Written:
    """The format of a file, as `tables.read_table` needs it; Parquet needs none. Raises InputError
    where the file cannot be opened, or has no bytes."""
    kind = kind_of(path)
    if kind not in ("csv", "json"):
        return Written()
    try:
        with open_bytes(path, str(path)) as file:
            content = file.read()
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise InputError(f"DATA: {str(path)!r} cannot be read: {error}") from None
    if not content.strip():
        raise InputError(f"DATA: {str(path)!r} is empty")
    encoding, why = _encoding_of(content)
    reasons = {"encoding": why} if why else {}
    try:
        text = content.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeError:
        # Whoever reads the file says where.
        return Written(Format(encoding=encoding), reasons)
    if kind == "json":
        key = _key_of_rows(text)
        said = {"field": f"the rows stand under {key!r}"} if key else {}
        return Written(Format(encoding=encoding, field=key), reasons | said)
    delimiter, quote, said = _delimiter_of(text, is_tabbed=".tsv" in path.name.lower())
    return Written(Format(delimiter, encoding, quote), reasons | said)


# Encodings


def _encoding_of(content: bytes) -> tuple[str, str]:
    """The encoding, and why it is thought to be that where it is not UTF-8."""
    marked = next((name for mark, name in MARKS.items() if content.startswith(mark)), None)
    if marked is not None:
        return marked, "" if marked == "utf-8" else "its byte order mark says so"
    if b"\0" in content:
        return ("utf-16-le" if b"\0" in content[1::2] else "utf-16-be"), "it has zero bytes"
    try:
        content.decode()
    except UnicodeDecodeError as error:
        encoding = _guessed(content)
        line = content.count(b"\n", 0, error.start) + 1
        word = _word_at(content, error.start).decode(encoding, errors="replace")
        return encoding, f"not UTF-8 (line {line}); read so, it says {word!r} there"
    return "utf-8", ""


def _guessed(content: bytes) -> str:
    """The likeliest encoding; Western where none is likelier, or where it makes the same letters of
    the file."""
    from charset_normalizer import from_bytes

    lines = [line for line in content.splitlines() if not line.isascii()]
    sample = b"\n".join(lines)[:_SAMPLE]
    found = from_bytes(sample, cp_isolation=list(_GUESSED), threshold=_MOST_MESS)
    likely = [each for each in found if _decoded(content, each.encoding) is not None]
    western = _decoded(content, _WESTERN)
    if not likely:
        return "latin-1" if western is None else _WESTERN
    best = (likely[0].chaos, -likely[0].coherence)
    as_likely = [each.encoding for each in likely if (each.chaos, -each.coherence) == best]
    if _WESTERN in as_likely or _decoded(content, as_likely[0]) == western:
        return _WESTERN
    return as_likely[0]


def _decoded(content: bytes, encoding: str) -> str | None:
    try:
        return content.decode(encoding)
    except UnicodeError:
        return None


def _word_at(content: bytes, place: int) -> bytes:
    """The word around a byte: between blanks, delimiters and quotes."""
    ends = b" ,;|\t\"'\r\n"
    start, end = place, place
    while start > 0 and content[start - 1] not in ends:
        start -= 1
    while end < len(content) and content[end] not in ends:
        end += 1
    return content[start:end]


# Delimiters


def _delimiter_of(text: str, is_tabbed: bool) -> tuple[str | None, str, dict[str, str]]:
    """The delimiter (None: the one that is the default), the quote, and why they are not the
    default. `csv.Sniffer` goes by how often a character occurs, which free text misleads; here a
    delimiter is one under which all rows have as many cells as the header."""
    default = "\t" if is_tabbed else ","
    if text.lstrip('"').startswith("sep="):
        return None, '"', {}
    for quote in ('"', ""):
        fits = {each: _fit(text, each, quote) for each in _DELIMITERS}
        best = max(fits, key=lambda each: (fits[each], each == default))
        if fits[best] == (0, 0):
            continue
        why = {}
        if best != default:
            width = fits[best][1]
            why["delimiter"] = (
                f"a {_DELIMITERS[best]} gives {width} columns, in the header and below"
            )
        if not quote:
            why["quote"] = "quotes mean nothing: with them the file does not parse"
        return (None if best == default else best), quote, why
    return None, '"', {}


def _fit(text: str, delimiter: str, quote: str) -> tuple[float, int]:
    """The share of rows that are as wide as the header, and how wide that is; (0, 0) where it is
    one column, where a row is wider, or where the file does not parse."""
    quoting: dict[str, Any] = {"quotechar": quote} if quote else {"quoting": csv.QUOTE_NONE}
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, **quoting)
    try:
        widths = [len(row) for row in islice(_with_content(rows), _ROWS)]
    except csv.Error:
        return 0, 0
    if not widths or widths[0] < 2 or max(widths) > widths[0]:
        return 0, 0
    return sum(width == widths[0] for width in widths) / len(widths), widths[0]


def _with_content(rows: Iterator[list[str]]) -> Iterator[list[str]]:
    """Rows that are not blank, without empty cells behind those of the header."""
    width = None
    for row in rows:
        if any(not is_blank(cell) for cell in row):
            width = width or len(row)
            end = max(width, *(index + 1 for index, cell in enumerate(row) if cell))
            yield row[:end]


# JSON


def _key_of_rows(text: str) -> str | None:
    """The dotted key of the first list of objects; None where the document is the rows."""
    try:
        document = json.loads(text)
    except ValueError:
        return None
    return next(_keys_of_rows(document), None) if isinstance(document, dict) else None


def _keys_of_rows(document: Mapping[str, Any], above: Sequence[str] = ()) -> Iterator[str]:
    for key, value in document.items():
        path = [*above, key]
        if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
            yield ".".join(path)
        elif isinstance(value, dict):
            yield from _keys_of_rows(value, path)
