"""The tables of a report, as cells that a terminal, a page and a paper show each in their way."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from lamina.evaluation.leaderboard import Row
from lamina.evaluation.measures import better_of
from lamina.evaluation.seeds import Comparison, Group, compare, holm
from lamina.reporting import formatting
from lamina.reporting.results import bounds, words_of


@dataclass(frozen=True)
class Column:
    """What a column is of."""

    key: str
    heading: str
    is_number: bool = True
    better: Literal["max", "min"] | None = None
    """Which values are better, where any are: the best is marked."""
    about: str = ""
    """What the number is, in a sentence."""


@dataclass(frozen=True)
class Cell:
    """One value."""

    text: str
    value: Any
    """What it is sorted by; None where it is undefined."""
    is_best: bool = False


@dataclass(frozen=True)
class Table:
    """Columns and rows of cells."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]

    def only(self, *keys: str) -> "Table":
        """The columns of these keys that there are, in this order."""
        at = {column.key: place for place, column in enumerate(self.columns)}
        places = [at[key] for key in keys if key in at]
        return Table(
            [self.columns[place] for place in places],
            [[row[place] for place in places] for row in self.rows],
        )


def _numbers(row: Row) -> tuple[tuple[Column, Callable[[Any], str]], ...]:
    """The columns of numbers, of trials that are measured as this one is."""
    words, better = words_of(row), better_of(row.get("measure", "accuracy"))
    return (
        (
            Column("average_accuracy", words, better=better, about="test part, mean over tasks"),
            formatting.number,
        ),
        (
            Column("forgetting", "forgetting", better="min", about="test part; lower is better"),
            formatting.number,
        ),
        (
            Column(
                "validation_average_accuracy",
                "validation",
                about="validation part, mean over tasks",
            ),
            formatting.number,
        ),
        (
            Column(
                "average_incremental_accuracy",
                "incremental",
                better=better,
                about=f"test part, mean over time of the average {words}",
            ),
            formatting.number,
        ),
        (
            Column(
                "learning_accuracy", "learning", about="test part, each task right after training"
            ),
            formatting.number,
        ),
        (
            Column("backward_transfer", "backward", about="test part, backward transfer"),
            formatting.number,
        ),
        (
            Column("forward_transfer", "forward", about="test part, forward transfer"),
            formatting.number,
        ),
        (Column("pooled_accuracy", "pooled", about="test part, mean over rows"), formatting.number),
        (Column("trainable_parameters", "trained", about="parameters"), formatting.count),
        (Column("stored_parameters", "stored", about="parameters"), formatting.count),
        (Column("memory_bytes", "memory", about="bytes of exemplars"), formatting.count),
        (Column("seconds", "seconds", about="training and evaluation"), formatting.seconds),
    )


NUMBERS = tuple(column.key for column, _ in _numbers({"measure": "accuracy"}))
"""The columns of a row that are numbers to compare trials by."""
_RANK = Column("rank", "#")
_STRATEGY = Column("strategy", "strategy", is_number=False)
_ADAPTER = Column("adapter", "adapter", is_number=False)
_SETTINGS = Column("settings", "settings", is_number=False)
_SCENARIO = Column("scenario", "scenario", is_number=False)
_STATUS = Column("status", "", is_number=False)


def trial_table(rows: Sequence[Row]) -> Table:
    """A line for each trial, by rank. A column that is undefined for all is left out."""
    names = [_RANK, _STRATEGY, _ADAPTER, _SETTINGS]
    if len({row["scenario"] for row in rows}) > 1:
        names.append(_SCENARIO)
    cells = [_names(row, names) for row in rows]
    numbers = [
        (column, text)
        for column, text in _numbers(rows[0])
        if column.key in _ALWAYS or any(row.get(column.key) is not None for row in rows)
    ]
    for line, row in zip(cells, rows, strict=True):
        line += [Cell(text(row.get(column.key)), row.get(column.key)) for column, text in numbers]
    columns = names + [column for column, _ in numbers]
    if any(row["status"] != "finished" for row in rows):
        columns.append(_STATUS)
        for line, row in zip(cells, rows, strict=True):
            line.append(Cell(formatting.status(row), formatting.status(row)))
    level = bounds(rows)
    rivals = [row["status"] == "finished" and row["trial"] not in level for row in rows]
    return _with_best(Table(columns, cells), rivals)


_ALWAYS = {"average_accuracy", "forgetting", "validation_average_accuracy", "seconds"}
"""Shown even where no trial has them, so that tables of broken sweeps look like others."""


def group_table(groups: Sequence[Group]) -> Table:
    """A line for each setting over its seeds: means with standard deviations, and the interval of
    the average's mean."""
    names = [_RANK, _STRATEGY, _ADAPTER, _SETTINGS]
    if len({group.scenario for group in groups}) > 1:
        names.append(_SCENARIO)
    words = words_of(groups[0].rows[0])
    of_interval = Column("interval", "95 %", about=f"interval of the mean {words}")
    columns = [*names, Column("seeds", "n", about="finished seeds")]
    cells = []
    shown = [
        (column, text)
        for column, text in _numbers(groups[0].rows[0])
        if any(group.estimate(column.key) for group in groups)
    ]
    for column, _ in shown:
        columns.append(column)
        if column.key == "average_accuracy":
            columns.append(of_interval)
    for rank, group in enumerate(groups, start=1):
        line = _names({**group.rows[0], "rank": rank, "settings": group.settings}, names)
        line.append(Cell(str(len(group.finished)), len(group.finished)))
        for column, text in shown:
            mean = group.estimate(column.key)
            spread = text is formatting.number
            said = formatting.with_deviation(mean) if spread else text(mean and mean.mean)
            line.append(Cell(said, mean and mean.mean))
            if column.key == "average_accuracy":
                said = formatting.interval(mean.mean, mean.margin) if mean else formatting.UNDEFINED
                line.append(Cell(said, mean and mean.margin))
        cells.append(line)
    level = bounds([row for group in groups for row in group.rows])
    rivals = [bool(each.finished) and each.rows[0]["trial"] not in level for each in groups]
    return _with_best(Table(columns, cells), rivals)


@dataclass(frozen=True)
class Pair:
    """A setting held against a reference."""

    other: Group
    found: Comparison
    p_adjusted: float | None
    """Of the t test, by Holm over all that are held against this reference."""


def against(reference: Group, groups: Iterable[Group], key: str = "average_accuracy") -> list[Pair]:
    """Every other setting that shares a seed with `reference`, compared with it: the other's number
    minus the reference's."""
    base = reference.by_seed(key)
    found = [
        (group, comparison)
        for group in groups
        if group is not reference and (comparison := compare(group.by_seed(key), base))
    ]
    defined = [each.p_t_test for _, each in found if each.p_t_test is not None]
    adjusted = iter(holm(defined))
    return [
        Pair(group, each, None if each.p_t_test is None else next(adjusted))
        for group, each in found
    ]


def comparison_table(reference: Group, groups: Iterable[Group]) -> Table:
    """The average of every other setting less the reference's, over common seeds."""
    columns = (
        Column("setting", "setting", is_number=False),
        Column("seeds", "n", about="common seeds"),
        Column("difference", "difference", about="mean of setting minus reference"),
        Column("interval", "95 %", about="interval of the mean difference"),
        Column("p_t_test", "p (t)", about="paired t test, two-sided"),
        Column("p_adjusted", "p (Holm)", about="the same, adjusted for the lines of this table"),
        Column("p_sign_test", "p (sign)", about="exact sign test, two-sided"),
    )
    rows = []
    for pair in against(reference, groups):
        found = pair.found
        name = formatting.name_of(pair.other)
        rows.append(
            (
                Cell(name, name),
                Cell(str(found.num), found.num),
                Cell(f"{found.difference:+.3f}", found.difference),
                Cell(formatting.interval(found.difference, found.margin), found.margin),
                *(
                    Cell(formatting.p_value(p), p)
                    for p in (found.p_t_test, pair.p_adjusted, found.p_sign_test)
                ),
            )
        )
    return Table(columns, rows)


def _names(row: Row, columns: Sequence[Column]) -> list[Cell]:
    texts = {
        "rank": str(row["rank"]),
        "strategy": row["strategy"],
        "adapter": row["adapter"] or formatting.UNDEFINED,
        "settings": formatting.settings(row["settings"]),
        "scenario": row["scenario"],
    }
    values = {**texts, "rank": row["rank"]}
    return [Cell(texts[column.key], values[column.key]) for column in columns]


def _with_best(table: Table, rivals: Sequence[bool]) -> Table:
    """The best of each column marked, ties in what is shown included, among the lines that are
    `rivals`. A single rival is not the best of anything."""
    rows = [list(row) for row in table.rows]
    for place, column in enumerate(table.columns):
        cells = [row[place] for row, is_rival in zip(rows, rivals, strict=True) if is_rival]
        values = [cell.value for cell in cells if cell.value is not None]
        if column.better is None or len(values) < 2:
            continue
        best = formatting.number(max(values) if column.better == "max" else min(values))
        for row, is_rival in zip(rows, rivals, strict=True):
            cell = row[place]
            if is_rival and cell.value is not None and formatting.number(cell.value) == best:
                row[place] = replace(cell, is_best=True)
    return Table(table.columns, rows)
