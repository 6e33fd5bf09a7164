"""Checks for probable mistakes in the rows of a stream. They may be meant, so they are noted, with
counts."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

from lamina.core import LazyValues, Part
from lamina.streams.base import Note, Table
from lamina.streams.names import counted, few_of, shown


def content_of(values: Sequence[Any], index: int) -> bytes:
    """The content of a value as bytes; for an image that is not decoded, its digest."""
    if isinstance(values, LazyValues):
        return values.digest(index)
    value = values[index]
    if isinstance(value, str):
        return value.encode() + b"\n"
    return f"{tuple(value.shape)} ".encode() + bytes(value.numpy().tobytes())


def text_key(text: str) -> str:
    """Equal for texts that are equal but for case and spaces."""
    return " ".join(text.casefold().split())


def notes_of(table: Table) -> list[Note]:
    """Rows of official validation or test parts that are in train as well, and values of train
    under several labels. Texts are compared but for case and spaces."""
    parts: dict[int, Part] = dict.fromkeys(range(len(table)), "train")
    if table.parts is not None:
        parts = dict(enumerate(table.parts))
    labels_of: dict[bytes, dict[str, int]] = {}
    for row, part in parts.items():
        if part == "train":
            labels_of.setdefault(_key(table, row), {}).setdefault(table.labels[row], row)
    what = "text" if table.modality == "text" else "image"
    notes = [_shared(table, parts, part, labels_of) for part in ("validation", "test")]
    several = {key: labels for key, labels in labels_of.items() if len(labels) > 1}
    if several:
        first = few_of([_example(table, labels) for labels in several.values()])
        stands = "stands" if len(several) == 1 else "stand"
        notes.append(
            Note(
                f"{what}s_of_several_labels",
                {f"{what}s": len(several)},
                f"{counted(len(several), what)} of train {stands} under more than one label: "
                f"{first}",
            )
        )
    return [note for note in notes if note is not None]


def _key(table: Table, row: int) -> bytes:
    if table.modality == "text":
        return text_key(_text(table, row)).encode()
    return blake2b(content_of(table.values, row), digest_size=16).digest()


def _shared(
    table: Table,
    parts: Mapping[int, Part],
    part: Part,
    labels_of: Mapping[bytes, Mapping[str, int]],
) -> Note | None:
    """A note on the rows of a part that are in train as well."""
    own = [row for row, each in parts.items() if each == part]
    shared = [row for row in own if _key(table, row) in labels_of]
    if not shared:
        return None
    differing = sum(table.labels[row] not in labels_of[_key(table, row)] for row in shared)
    under = f", {differing:,} of them under another label" if differing else ""
    are = "is" if len(shared) == 1 else "are"
    # Of long texts only those that are shown are looked at.
    first = few_of([_value(table, row) for row in shared[:3]] + [""] * (len(shared) - 3))
    return Note(
        f"{part}_rows_in_train",
        {"rows": len(shared), "of": len(own), "under_another_label": differing},
        f"{len(shared):,} of the {counted(len(own), 'row')} of {part} {are} in train as well"
        f"{under}: {first}",
    )


def _example(table: Table, labels: Mapping[str, int]) -> str:
    """A value and its labels."""
    return f"{_value(table, next(iter(labels.values())))} ({few_of([shown(x) for x in labels])})"


def _value(table: Table, row: int) -> str:
    """A value as a person knows it, in a few words."""
    if isinstance(table.values, LazyValues):
        return table.values.source.name(int(table.values.rows[row]))
    if not isinstance(table.values[row], str):
        return f"image {row}"
    text = shown(_text(table, row))
    return text if len(text) <= 50 else f"{text[:47]}..."


def _text(table: Table, row: int) -> str:
    """A row's text; where nothing is asked, its answer."""
    text = str(table.values[row])
    return text if text or table.targets is None else table.targets[row]
