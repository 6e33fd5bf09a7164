"""What the columns of a table are for, guessed from their names and cells: which holds the texts,
which the labels, tasks or dates. Every guess has its reason in words."""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from lamina.streams.dates import are_dates
from lamina.streams.names import counted, is_blank
from lamina.streams.tables import Cell

_TEXTS = (
    *("text", "texts", "sentence", "utterance", "message", "body", "content", "description"),
    *("question", "query", "comment", "review", "tweet", "document", "title", "subject"),
    *("headline", "summary"),
)
_HEADS = ("subject", "title", "headline", "summary")
"""Columns whose cells introduce the text of another column."""
_LABELS = (
    *("label", "labels", "class", "category", "intent", "target", "y", "team", "department"),
    *("queue", "assigned", "tag", "sentiment", "topic", "type", "kind", "product", "rating"),
    "stars",
)
"""From the surest to the least sure."""
_TASKS = ("task", "domain", "experience", "session", "phase", "period")
"""Names of columns that are about tasks and nothing else."""
_MAYBE_TASKS = (
    *("product", "topic", "language", "lang", "locale", "country", "region", "site", "source"),
    "channel",
)
_DATES = ("created", "opened", "received", "date", "timestamp", "time", "when", "day")
_SAMPLE = 200
"""How many different cells are read to find out whether they are dates."""
_MOST_CLASSES = 500
_LEAST_ROWS = 3
"""Of a class on average: one for each part."""
_MOST_TASKS = 50


@dataclass(frozen=True)
class Column:
    """A column of cells as they were read."""

    name: str
    cells: Sequence[Cell]

    @cached_property
    def counts(self) -> Counter[str]:
        """How often each cell that is not blank occurs."""
        return Counter(cell for cell in self.cells if cell is not None and not is_blank(cell))

    @cached_property
    def filled(self) -> int:
        """Cells that are not blank."""
        return self.counts.total()

    @cached_property
    def length(self) -> float:
        """Characters of a cell that is not blank, on average."""
        return sum(len(cell) * n for cell, n in self.counts.items()) / max(self.filled, 1)

    @cached_property
    def words(self) -> float:
        """Words of a cell that is not blank, on average."""
        return sum(len(cell.split()) * n for cell, n in self.counts.items()) / max(self.filled, 1)

    @cached_property
    def is_number(self) -> bool:
        """Whether all cells are numbers."""
        return bool(self.counts) and all(map(_is_number, self.counts))

    @cached_property
    def is_date(self) -> bool:
        """Whether the first cells are dates."""
        return bool(self.counts) and are_dates([*self.counts][:_SAMPLE])

    @cached_property
    def is_id(self) -> bool:
        """Whether each cell is another, and none a text."""
        return len(self.counts) > 0.95 * self.filled and (self.is_number or self.words < 1.5)

    @cached_property
    def name_words(self) -> list[str]:
        """`createdAt` and `created at` are both `created` and `at`."""
        spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", self.name)
        return re.findall(r"[^\W_]+", spaced.casefold())

    def rank_among(self, words: Sequence[str]) -> int:
        """The place of the first of `words` that its name has; behind all where it has none."""
        return min((words.index(word) for word in self.name_words if word in words), default=99)

    def is_named(self, words: Collection[str]) -> bool:
        """Whether its name has one of `words`."""
        return not {*self.name_words}.isdisjoint(words)


@dataclass(frozen=True)
class Roles:
    """The roles of columns. None and empty where no column has the role."""

    text: tuple[str, ...]
    label: str | None
    task: str | None
    """A column that is about tasks by its name."""
    maybe_tasks: tuple[str, ...]
    """Others that tasks could be cut by."""
    date: str | None
    reasons: Mapping[str, str]
    """For each column, the reason for its role, or why it is left out."""


def roles_of(
    columns: Sequence[Column],
    text: Sequence[str] = (),
    label: str | None = None,
    has_images: bool = False,
) -> Roles:
    """The roles of the columns of one table; `text` and `label` are those that a person named.

    Where rows are images, no column is their text.
    """
    reasons: dict[str, str] = {}
    by_name = {each.name: each for each in columns}
    if text:
        reasons |= dict.fromkeys(text, "texts, as you say")
    elif not has_images:
        text = _texts(columns, label, reasons)
    left = [each for each in columns if each.name not in text]
    if label is None:
        label = _label(left, reasons)
    elif label in by_name:
        reasons[label] = (
            f"labels, as you say: {counted(len(by_name[label].counts), 'class', 'classes')}"
        )
    left = [each for each in left if each.name != label]
    date = min(
        (each for each in left if each.is_date),
        key=lambda each: each.rank_among(_DATES),
        default=None,
    )
    groups = [each for each in left if _could_be_tasks(each)]
    task = next((each.name for each in groups if each.is_named(_TASKS)), None)
    maybe = tuple(each.name for each in groups if each.is_named(_MAYBE_TASKS))
    if date is not None:
        reasons[date.name] = "dates"
    if task is not None:
        reasons[task] = f"tasks: {counted(len(by_name[task].counts), 'value')}, and its name"
    reasons |= {each.name: _why_not(each) for each in left if each.name not in reasons}
    return Roles(tuple(text), label, task, maybe, date.name if date else None, reasons)


def _texts(
    columns: Sequence[Column], label: str | None, reasons: dict[str, str]
) -> tuple[str, ...]:
    """The column of the longest and most different texts, with one that introduces it."""
    found = [
        each
        for each in columns
        if each.name != label
        and not (each.is_number or each.is_date or each.is_id)
        and (each.words >= 1.5 or each.length >= 15)
    ]
    if not found:
        return ()
    body = max(found, key=_textual)
    heads = [each for each in found if each is not body and each.is_named(_HEADS)]
    heads = [each for each in heads if len(each.counts) > each.filled / 3]
    chosen = [*heads[:1], body] if not body.is_named(_HEADS) else [body]
    for each in chosen:
        reasons[each.name] = (
            f"texts: {len(each.counts):,} different ones, {each.length:.0f} characters on average"
        )
    return tuple(each.name for each in chosen)


def _textual(column: Column) -> float:
    differing = len(column.counts) / max(column.filled, 1)
    return min(column.length, 300) * differing * (2 if column.is_named(_TEXTS) else 1)


def _label(columns: Sequence[Column], reasons: dict[str, str]) -> str | None:
    """The column with few values that is called like labels, or that has words in it."""
    found = [each for each in columns if _could_be_labels(each)]
    if not found:
        return None
    # Of equals the last one: labels stand behind what they are about.
    best = min(reversed(found), key=lambda each: (each.rank_among(_LABELS), each.is_number))
    rows = best.filled / len(best.counts)
    named = ", and its name" if best.is_named(_LABELS) else ""
    reasons[best.name] = (
        f"labels: {counted(len(best.counts), 'class', 'classes')} of {rows:,.0f} rows on average"
        f"{named}"
    )
    return best.name


def _could_be_labels(column: Column) -> bool:
    number = len(column.counts)
    return (
        2 <= number <= min(_MOST_CLASSES, column.filled / _LEAST_ROWS)
        and column.length <= 60
        and not column.is_date
        and not column.is_named(_TASKS)
    )


def _could_be_tasks(column: Column) -> bool:
    return 2 <= len(column.counts) <= _MOST_TASKS and not column.is_date


def _why_not(column: Column) -> str:
    """Why a column has no role."""
    if not column.filled:
        return "empty"
    if len(column.counts) == 1:
        return "the same in every row"
    if column.is_date:
        return "dates, and another column of dates is taken"
    if column.is_id:
        return "another in every row: an id"
    what = "numbers" if column.is_number else "values"
    return f"{len(column.counts):,} different {what} in {counted(column.filled, 'row')}"


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
