"""How rows become a stream: which classes or domains each task shows, and in what order."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from random import Random
from typing import Any, ClassVar, get_args

import torch

from lamina.core import (
    PARTS,
    Experience,
    Part,
    Samples,
    Scenario,
    Stream,
    Task,
    seed_of,
    values_at,
)
from lamina.registry import InputError, Where, unknown
from lamina.streams.base import Note, Table
from lamina.streams.checks import content_of, notes_of
from lamina.streams.dates import Every, calendar_periods, equal_periods
from lamina.streams.names import counted, few_of
from lamina.streams.schedule import Cell, blurred, recurring
from lamina.streams.split import Shares, assign_parts


@dataclass(frozen=True)
class ScenarioSettings:
    """The rule that cuts a source into tasks.

    Raises InputError, naming the key, for a value that makes no sense.
    """

    kind: Scenario
    """class_incremental, task_incremental: every class belongs to one task (in the latter the task
    is known at prediction); domain_incremental: the tasks share classes; joint: one task of all;
    task_free: as class_incremental, but nothing tells a learner where a task ends, and it is
    online."""
    num_tasks: int | None = None
    """How many tasks the classes are dealt into, evenly; null takes the source's own groups. With
    `by`, how many tasks of about as many rows each the time is cut into."""
    by: str | None = None
    """The column of dates by which domain_incremental tasks are cut, the oldest first; null takes
    the source's own groups."""
    every: Every | None = None
    """Tasks that are calendar months, quarters or years of `by`; null cuts it into `num_tasks`."""
    shuffle: bool = False
    """Whether the order of the tasks (or of the classes that are dealt) is drawn from the seed."""
    validation: float = 0.15
    """The share of the training rows to select on, where the source has no validation part."""
    test: float = 0.25
    """The share of all rows to report on, where the source has no test part."""
    limit_per_class: int | None = None
    """At most this many rows of a class in each part of a task, drawn at random; null keeps all."""
    online: bool = False
    """Whether every training row is seen once, as it comes; exemplars enter the memory as they
    pass."""
    recurrences: int = 1
    """How often the sequence of tasks is gone through, each time with rows of its own."""
    blurry: float = 0.0
    """The share of the training rows of a class that come in other tasks, drawn at random (M of
    Si-Blurry)."""
    disjoint: float = 0.5
    """The share of the classes that do not blur (N of Si-Blurry)."""

    matters_when: ClassVar[Mapping[str, Where]] = {
        "num_tasks": Where(
            "kind", "class_incremental", "task_incremental", "domain_incremental", "task_free"
        ),
        "by": Where("kind", "domain_incremental"),
        "every": Where("by"),
        "shuffle": Where(
            "kind", "class_incremental", "task_incremental", "domain_incremental", "task_free"
        ),
        "online": Where(
            "kind", "class_incremental", "task_incremental", "domain_incremental", "joint"
        ),
        "disjoint": Where("blurry"),
    }

    def __post_init__(self) -> None:
        if self.kind not in get_args(Scenario):
            raise unknown("scenario.kind", self.kind, get_args(Scenario))
        for key in ("validation", "test"):
            share = getattr(self, key)
            if not 0 < share < 1:
                raise InputError(
                    f"scenario.{key}: {share!r} is no share (allowed: above 0, below 1)"
                )
        if not 0 <= self.blurry < 1:
            raise InputError(
                f"scenario.blurry: {self.blurry!r} is no share (allowed: 0 or more, below 1)"
            )
        if not 0 <= self.disjoint <= 1:
            raise InputError(f"scenario.disjoint: {self.disjoint!r} is no share (allowed: 0 to 1)")
        for key in ("num_tasks", "limit_per_class", "recurrences"):
            count = getattr(self, key)
            if count is not None and count < 1:
                raise InputError(f"scenario.{key}: {count!r} is too few (allowed: null, 1, 2, ...)")
        if self.kind == "joint" and self.num_tasks not in (None, 1):
            raise InputError(
                f"scenario.num_tasks: {self.num_tasks} does not fit kind 'joint' (allowed: null, 1)"
            )
        if self.kind == "joint" and (self.blurry or self.recurrences > 1):
            key = "blurry" if self.blurry else "recurrences"
            raise InputError(
                f"scenario.{key}: {getattr(self, key)} does not fit kind 'joint', "
                "which has one task"
            )
        if self.kind == "domain_incremental":
            self._check_domains()

    def _check_domains(self) -> None:
        if self.by is None:
            if self.num_tasks is not None:
                raise InputError(
                    f"scenario.num_tasks: {self.num_tasks} does not fit kind 'domain_incremental', "
                    "whose tasks are the groups of the source (allowed: null, or with "
                    "scenario.by, the column of dates to cut)"
                )
        elif (self.num_tasks is None) == (self.every is None):
            raise InputError(
                "scenario.num_tasks: give this or scenario.every with scenario.by, and not both "
                f"(given: {self.num_tasks!r} and {self.every!r})"
            )

    @property
    def one_pass(self) -> bool:
        """Whether a stream of these settings is online."""
        return self.online or self.kind == "task_free"

    @property
    def time_column(self) -> str | None:
        """The column of dates that is read; None where tasks are not cut by time."""
        return self.by if self.kind == "domain_incremental" else None


_OF_TOKENS = ("domain_incremental", "joint")
"""Scenarios of streams whose answers are tokens: tasks are groups of the source."""


@dataclass(frozen=True)
class _Plan:
    """A task before its rows are split."""

    name: str
    classes: Sequence[str]
    """In the order in which they are numbered."""
    rows: Sequence[int]


def make_stream(
    table: Table,
    settings: ScenarioSettings,
    seed: int,
    name: str = "table",
    origin: Mapping[str, Any] | None = None,
) -> Stream[Samples]:
    """The rows of `table` as a stream, with their indices in the table as ids.

    `origin` is what the record says of where the table came from. Raises InputError where the table
    does not fit the settings, or where a class of a task has too few rows for all three parts.
    """
    if table.targets is not None and settings.kind not in _OF_TOKENS:
        raise InputError(
            f"scenario.kind: {settings.kind!r} is for classes, and the answers of {name!r} are "
            f"tokens (allowed: {', '.join(_OF_TOKENS)})"
        )
    plans, cells, parts, rare = _split(table, settings, seed)
    found = [each.plain() for each in (*table.notes, *rare, *notes_of(table))]
    if settings.limit_per_class is not None:
        parts = _limited(parts, cells, settings.limit_per_class, seed)

    when = recurring(cells, parts, len(plans), settings.recurrences, seed)
    when = blurred(when, cells, parts, settings.blurry, settings.disjoint, seed)

    shown = _shown(table, plans, cells, when, settings)
    if table.targets is not None:
        shown = [[] for _ in shown]
    class_names = tuple(dict.fromkeys(label for labels in shown for label in labels))
    number = {label: index for index, label in enumerate(class_names)}
    coming: list[list[int]] = [[] for _ in shown]
    for row in sorted(when):
        coming[when[row]].append(row)
    experiences = tuple(
        Experience(
            Task(index, _name(plans, index), tuple(number[label] for label in labels)),
            **{
                part: _samples(table, [row for row in coming[index] if parts[row] == part], number)
                for part in PARTS
            },
        )
        for index, labels in enumerate(shown)
    )
    record = {
        "source": dict(origin or {"name": name}),
        "scenario": asdict(settings),
        "seed": seed,
        "tasks": [
            {
                "name": each.task.name,
                "classes": [class_names[number] for number in each.task.classes],
                "sizes": {part: len(each.part(part)) for part in PARTS},
                "schedule": {
                    class_names[number]: int((each.train.labels == number).sum())
                    for number in each.task.classes
                },
            }
            for each in experiences
        ],
        "notes": found,
        "digest": _digest(experiences),
    }
    return Stream(
        name,
        settings.kind,
        table.modality,
        class_names,
        experiences,
        record,
        one_pass=settings.one_pass,
        answers="classes" if table.targets is None else "tokens",
    )


def _split(
    table: Table, settings: ScenarioSettings, seed: int
) -> tuple[list[_Plan], dict[int, Cell], dict[int, Part], list[Note]]:
    """Tasks, and the task, class and part of each of their rows; what is said of classes that were
    left out because they are rare."""
    rows: Sequence[int] = range(len(table))
    rare: dict[tuple[str, str], int] = {}
    while True:
        plans = _plan(table, rows, settings, Random(seed_of(seed, "stream", "order")))
        cells = {
            row: (task, table.labels[row]) for task, plan in enumerate(plans) for row in plan.rows
        }
        parts = assign_parts(
            cells,
            table.templates,
            table.parts,
            Shares(validation=settings.validation, test=settings.test),
            Random(seed_of(seed, "stream", "split")),
        )
        too_few = _too_few(plans, cells, parts, table.min_per_class or 1)
        if not too_few:
            break
        if table.min_per_class is None:
            raise _too_rare(plans, too_few)
        # Without these classes the others may be dealt into other tasks.
        for (task, label), size in too_few.items():
            name = plans[task].name if settings.kind == "domain_incremental" else ""
            rare[name, label] = sum(size.values())
        rows = [row for row in rows if cells[row] not in too_few]
        if not rows:
            raise InputError(
                f"stream.min_per_class: {table.min_per_class} leaves no class (allowed: 1 to "
                f"{max(Counter(table.labels).values())})"
            )
    if not rare:
        return plans, cells, parts, []
    number = sum(rare.values())
    each = few_of([f"{label!r} ({size})" for (_, label), size in rare.items()], 5)
    note = Note(
        "rare_classes",
        {"classes": len(rare), "rows": number},
        f"{counted(len(rare), 'rare class', 'rare classes')} with {counted(number, 'row')} "
        f"{'is' if len(rare) == 1 else 'are'} left out: {each} (stream.min_per_class: "
        f"{table.min_per_class})",
    )
    return plans, cells, parts, [note]


def _shown(
    table: Table,
    plans: Sequence[_Plan],
    cells: Mapping[int, Cell],
    when: Mapping[int, int],
    settings: ScenarioSettings,
) -> list[list[str]]:
    """The classes that each task shows: its own in their order, then those that blur into it."""
    occurring: list[set[str]] = [set() for _ in range(len(plans) * settings.recurrences)]
    for row, task in when.items():
        occurring[task].add(cells[row][1])
    shown = []
    for index, labels in enumerate(occurring):
        own = list(plans[index % len(plans)].classes)
        shown.append([*own, *(label for label in table.classes if label in labels.difference(own))])
    return shown


def _name(plans: Sequence[_Plan], index: int) -> str:
    """A task that comes back says how often it has."""
    round_, task = divmod(index, len(plans))
    return plans[task].name if round_ == 0 else f"{plans[task].name} ({round_ + 1})"


def _plan(
    table: Table, among: Sequence[int], settings: ScenarioSettings, random: Random
) -> list[_Plan]:
    """Which classes and rows each task has, in order; only `among` these rows."""
    if settings.kind == "domain_incremental":
        return _domains(table, among, settings, random)
    occurring = {table.labels[row] for row in among}
    classes = [label for label in table.classes if label in occurring]
    if settings.kind == "joint":
        dealt = {"all": classes}
    elif settings.num_tasks is None:
        dealt = _groups_of_classes(table, among, settings)
        if settings.shuffle:
            dealt = {name: dealt[name] for name in random.sample(list(dealt), len(dealt))}
    else:
        if settings.shuffle:
            random.shuffle(classes)
        dealt = _deal(classes, settings.num_tasks)
    owner = {label: name for name, labels in dealt.items() for label in labels}
    rows: dict[str, list[int]] = {name: [] for name in dealt}
    for row in among:
        rows[owner[table.labels[row]]].append(row)
    return [_Plan(name, labels, rows[name]) for name, labels in dealt.items()]


def _domains(
    table: Table, among: Sequence[int], settings: ScenarioSettings, random: Random
) -> list[_Plan]:
    """A task per group or period, with the classes that occur in it."""
    rows = _periods(table, among, settings) if settings.by else _groups(table, among)
    names = list(rows)
    if settings.shuffle:
        random.shuffle(names)
    plans = []
    for name in names:
        occurring = {table.labels[row] for row in rows[name]}
        classes = [label for label in table.classes if label in occurring]
        plans.append(_Plan(name, classes, rows[name]))
    return plans


def _groups(table: Table, among: Sequence[int]) -> dict[str, list[int]]:
    """The rows of the source's groups, in the order in which these come."""
    if table.groups is None:
        raise InputError(
            "scenario.kind: 'domain_incremental' needs a source with groups, and this one has none "
            "(huggingface and instructions take them from stream.task_column, or periods from "
            "scenario.by)"
        )
    rows: dict[str, list[int]] = {}
    for row in among:
        rows.setdefault(table.groups[row], []).append(row)
    return rows


def _periods(
    table: Table, among: Sequence[int], settings: ScenarioSettings
) -> dict[str, list[int]]:
    """The rows of each period, the oldest first."""
    assert table.times is not None
    times = {row: table.times[row] for row in among}
    if settings.every is not None:
        return calendar_periods(times, settings.every)
    assert settings.num_tasks is not None
    return equal_periods(times, settings.num_tasks)


def _groups_of_classes(
    table: Table, among: Sequence[int], settings: ScenarioSettings
) -> dict[str, list[str]]:
    """The source's groups in their order, each with its classes."""
    if table.groups is None:
        raise InputError(
            f"scenario.num_tasks: null needs a source with groups, and this one has none "
            f"(allowed: 1 to {len(table.classes)}, its number of classes)"
        )
    group_of: dict[str, str] = {}
    for row in among:
        label, group = table.labels[row], table.groups[row]
        if group_of.setdefault(label, group) != group:
            raise InputError(
                f"scenario.kind: {settings.kind!r} gives a class to one task only, and class "
                f"{label!r} occurs in the groups {group_of[label]!r} and {group!r}; take "
                "'domain_incremental', or deal the classes out with scenario.num_tasks"
            )
    groups: dict[str, list[str]] = {table.groups[row]: [] for row in among}
    for label in table.classes:
        if label in group_of:
            groups[group_of[label]].append(label)
    return groups


def _deal(classes: Sequence[str], num_tasks: int) -> dict[str, list[str]]:
    """Consecutive runs of classes; their lengths differ by one at most, the longer ones first."""
    if num_tasks > len(classes):
        raise InputError(
            f"scenario.num_tasks: {num_tasks} is more than there are classes "
            f"(allowed: 1 to {len(classes)})"
        )
    length, longer = divmod(len(classes), num_tasks)
    dealt, start = {}, 0
    for task in range(num_tasks):
        end = start + length + (task < longer)
        dealt[f"task {task + 1}"] = list(classes[start:end])
        start = end
    return dealt


def _limited(
    parts: Mapping[int, Part], cells: Mapping[int, Cell], limit: int, seed: int
) -> dict[int, Part]:
    """`parts` of at most `limit` rows of each class of a task in each part."""
    together: dict[tuple[int, str, Part], list[int]] = {}
    for row, part in parts.items():
        together.setdefault((*cells[row], part), []).append(row)
    kept: dict[int, Part] = {}
    for (task, label, part), rows in together.items():
        random = Random(seed_of(seed, "stream", "limit", task, label, part))
        kept |= dict.fromkeys(random.sample(rows, min(limit, len(rows))), part)
    return kept


def _too_few(
    plans: Sequence[_Plan], cells: Mapping[int, Cell], parts: Mapping[int, Part], least: int
) -> dict[Cell, dict[Part, int]]:
    """The classes of tasks that have fewer rows than `least`, or none in some part, with their
    rows in each part."""
    sizes = {
        (task, label): dict.fromkeys(PARTS, 0)
        for task, plan in enumerate(plans)
        for label in plan.classes
    }
    for row, part in parts.items():
        sizes[cells[row]][part] += 1
    return {
        cell: size
        for cell, size in sizes.items()
        if sum(size.values()) < least or not all(size.values())
    }


def _too_rare(plans: Sequence[_Plan], too_few: Mapping[Cell, Mapping[Part, int]]) -> InputError:
    """Names every class that lacks rows."""
    each = []
    for (task, label), size in too_few.items():
        total = sum(size.values())
        rows = ", ".join(f"{count} {part}" for part, count in size.items())
        each.append(
            f"class {label!r} of task {plans[task].name!r} has {counted(total, 'row')} ({rows})"
        )
    return InputError(
        f"stream: {few_of(each, 20)}; every part needs one at least, and equal rows and variants "
        "go to the same part (huggingface leaves rare classes out with stream.min_per_class)"
    )


def _samples(table: Table, rows: Sequence[int], number: Mapping[str, int]) -> Samples:
    targets = table.targets
    return Samples(
        values=values_at(table.values, rows),
        labels=torch.tensor([number.get(table.labels[row], 0) for row in rows], dtype=torch.int64),
        ids=torch.tensor(rows, dtype=torch.int64),
        targets=None if targets is None else [targets[row] for row in rows],
    )


def _digest(experiences: Iterable[Experience[Samples]]) -> str:
    """A sha256 of every row in order: its task, part, id, class number and value."""
    digest = sha256()
    for each in experiences:
        for part in PARTS:
            rows = each.part(part)
            for index, (row, label) in enumerate(
                zip(rows.ids.tolist(), rows.labels.tolist(), strict=True)
            ):
                digest.update(f"{each.task.index} {part} {row} {label} ".encode())
                digest.update(content_of(rows.values, index))
                if rows.targets is not None:
                    digest.update(rows.targets[index].encode())
    return digest.hexdigest()
