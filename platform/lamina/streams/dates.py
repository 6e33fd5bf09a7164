"""Dates of a column of texts, read in one way of writing and never guessed; and the periods that
they fall into."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Literal

from lamina.registry import InputError
from lamina.streams.names import few_of

Every = Literal["month", "quarter", "year"]
"""A period of the calendar."""

_TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
_WAYS: Mapping[str, Sequence[str]] = {
    "ISO 8601": (),
    "year": ("%Y",),
    "year-month": ("%Y-%m",),
    "year/month/day": ("%Y/%m/%d",),
    "day.month.year": ("%d.%m.%Y",),
    "day/month/year": ("%d/%m/%Y",),
    "month/day/year": ("%m/%d/%Y",),
    "day-month-year": ("%d-%m-%Y",),
    "month-day-year": ("%m-%d-%Y",),
    "day month year, the month as a word": ("%d %B %Y", "%d %b %Y"),
    "month day, year, the month as a word": ("%B %d, %Y", "%b %d, %Y"),
}
"""Ways to write a date, each with the formats of its day. A year has four digits in all of them,
and a time may follow."""
_SAMPLE = 100
"""Different dates that a way is tried on first: one that reads none of them is given up."""


def read_dates(cells: Sequence[str], key: str, where: Callable[[int], str]) -> list[datetime]:
    """The time of each cell; a time with an offset as UTC. Every cell is written in the same way.

    `key` is what the job calls the column, `where` what a person calls the row of a cell. Raises
    InputError where no way reads all cells, or where two ways read them differently
    (`01/02/2025`), naming the rows.
    """
    at: dict[str, int] = {}
    for index, cell in enumerate(cells):
        at.setdefault(cell, index)
    found = {way: _read(at, way) for way in _likely_ways([*at][:_SAMPLE])}
    complete = [way for way, times in found.items() if len(times) == len(at)]
    if not complete:
        raise _unreadable(at, found, key, where)
    first = found[complete[0]]
    for other in complete[1:]:
        differing = [cell for cell in at if first[cell] != found[other][cell]]
        if differing:
            said = few_of([f"{cell!r} ({where(at[cell])})" for cell in differing])
            raise InputError(
                f"{key}: the dates may be {complete[0]} or {other}: {said} (allowed: dates of one "
                "meaning, such as 2025-01-31)"
            )
    _check_offsets(first, at, key, where)
    return [_plain(first[cell]) for cell in cells]


def are_dates(cells: Sequence[str]) -> bool:
    """Whether each of some cells is a date in one and the same way, ambiguous or not; a bare year
    is not enough."""
    return any(way != "year" and len(_read(cells, way)) == len(set(cells)) for way in _WAYS)


def _likely_ways(sample: Sequence[str]) -> list[str]:
    likely = [way for way in _WAYS if _read(sample, way)]
    return likely or list(_WAYS)


def _read(cells: Sequence[str] | Mapping[str, int], way: str) -> dict[str, datetime]:
    """The cells that a way reads."""
    times = ((cell, _time_of(cell.strip(), way)) for cell in cells)
    return {cell: time for cell, time in times if time is not None}


def _time_of(text: str, way: str) -> datetime | None:
    formats = [f"{day}{time}" for time in _TIMES for day in _WAYS[way]]
    # Of ISO's basic form only the one with a T is a date and nothing else.
    readers = [] if formats or text.isdecimal() else [datetime.fromisoformat]
    readers += [partial(_strict, form) for form in formats]
    for read in readers:
        try:
            return read(text)
        except ValueError:
            continue
    return None


def _strict(form: str, text: str) -> datetime:
    return datetime.strptime(text, form)


def _plain(time: datetime) -> datetime:
    return time if time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None)


def _unreadable(
    at: Mapping[str, int],
    found: Mapping[str, Mapping[str, datetime]],
    key: str,
    where: Callable[[int], str],
) -> InputError:
    """Names the cells that the way which reads most does not read."""
    way = max(found, key=lambda each: len(found[each]))
    odd = [cell for cell in at if cell not in found[way]]
    said = few_of([f"{cell!r} ({where(at[cell])})" for cell in odd], 5)
    as_what = f" as the others are ({way})" if found[way] else ""
    return InputError(
        f"{key}: {len(odd):,} of {len(at):,} different dates cannot be read{as_what}: {said} "
        f"(allowed: one way for all of {', '.join(_WAYS)})"
    )


def _check_offsets(
    times: Mapping[str, datetime],
    at: Mapping[str, int],
    key: str,
    where: Callable[[int], str],
) -> None:
    """Raises InputError where some times say how far they are from UTC and others do not."""
    aware = [cell for cell, time in times.items() if time.tzinfo is not None]
    if aware and len(aware) < len(times):
        bare = next(cell for cell, time in times.items() if time.tzinfo is None)
        raise InputError(
            f"{key}: {aware[0]!r} ({where(at[aware[0]])}) says its offset from UTC and {bare!r} "
            f"({where(at[bare])}) does not (allowed: all or none)"
        )


# Periods


def calendar_periods(times: Mapping[int, datetime], every: Every) -> dict[str, list[int]]:
    """The rows of each period that has any, in the order of time: 2025-01, 2025-Q1 or 2025."""
    names = {
        "month": lambda time: f"{time:%Y-%m}",
        "quarter": lambda time: f"{time:%Y}-Q{(time.month + 2) // 3}",
        "year": lambda time: f"{time:%Y}",
    }
    periods: dict[str, list[int]] = {}
    for row in sorted(times, key=lambda row: (times[row], row)):
        periods.setdefault(names[every](times[row]), []).append(row)
    return periods


def equal_periods(times: Mapping[int, datetime], number: int) -> dict[str, list[int]]:
    """`number` periods of about as many rows each, called by their first and last day. Rows of one
    time stay together.

    Raises InputError where there are fewer different times.
    """
    together: dict[datetime, list[int]] = {}
    for row in sorted(times, key=lambda row: (times[row], row)):
        together.setdefault(times[row], []).append(row)
    if number > len(together):
        raise InputError(
            f"scenario.num_tasks: {number} is more than there are different times (allowed: 1 to "
            f"{len(together)})"
        )
    spans = list(_equal_spans([len(rows) for rows in together.values()], number))
    moments, rows_of = list(together), list(together.values())
    ends = [(moments[span[0]], moments[span[-1]]) for span in spans]
    names = [_days(*each) for each in ends]
    if len(set(names)) < number:
        names = [f"{first.isoformat(' ')} to {last.isoformat(' ')}" for first, last in ends]
    return {
        name: [row for moment in span for row in rows_of[moment]]
        for name, span in zip(names, spans, strict=True)
    }


def _equal_spans(sizes: Sequence[int], number: int) -> Iterator[range]:
    """`number` runs of consecutive places, none empty, whose sizes add up to about the same."""
    start, left = 0, sum(sizes)
    for later in reversed(range(number)):
        goal, have, end = left / (later + 1), 0, start
        while end < len(sizes) - later and (not have or not later or have + sizes[end] / 2 <= goal):
            have += sizes[end]
            end += 1
        yield range(start, end)
        start, left = end, left - have


def _days(first: datetime, last: datetime) -> str:
    if first.date() == last.date():
        return f"{first:%Y-%m-%d}"
    return f"{first:%Y-%m-%d} to {last:%Y-%m-%d}"
