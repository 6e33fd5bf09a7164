"""How rows become a stream: which classes or domains each task shows, and in what order."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from random import Random
from typing import Any, ClassVar, get_args

import torch

from lamina.core import PARTS, Experience, Part, Samples, Scenario, Stream, Task, seed_of
from lamina.registry import InputError, Where, unknown
from lamina.streams.base import Table
from lamina.streams.schedule import blurred, recurring
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
    """How many tasks the classes are dealt into, evenly; null takes the source's own groups."""
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
        "num_tasks": Where("kind", "class_incremental", "task_incremental", "task_free"),
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
        if self.kind == "domain_incremental" and self.num_tasks is not None:
            raise InputError(
                f"scenario.num_tasks: {self.num_tasks} does not fit kind 'domain_incremental', "
                "whose tasks are the groups of the source (allowed: null)"
            )

    @property
    def one_pass(self) -> bool:
        """Whether a stream of these settings is online."""
        return self.online or self.kind == "task_free"


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
    """The rows of `table` as a stream, with their places in the table as ids.

    `origin` is what the record says of where the table came from. Raises InputError where the table
    does not fit the settings, or where a class of a task has too few rows for all three parts.
    """
    plans = _plan(table, settings, Random(seed_of(seed, "stream", "order")))
    cells = {row: (task, table.labels[row]) for task, plan in enumerate(plans) for row in plan.rows}
    parts = assign_parts(
        cells,
        table.templates,
        table.parts,
        Shares(validation=settings.validation, test=settings.test),
        Random(seed_of(seed, "stream", "split")),
    )
    _check_every_class_in_every_part(plans, cells, parts)
    if settings.limit_per_class is not None:
        parts = _limited(parts, cells, settings.limit_per_class, seed)

    when = recurring(cells, parts, len(plans), settings.recurrences, seed)
    when = blurred(when, cells, parts, settings.blurry, settings.disjoint, seed)

    shown = _shown(table, plans, cells, when, settings)
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
    )


def _shown(
    table: Table,
    plans: Sequence[_Plan],
    cells: Mapping[int, tuple[int, str]],
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


def _plan(table: Table, settings: ScenarioSettings, random: Random) -> list[_Plan]:
    """Which classes and rows each task has, in order."""
    if settings.kind == "domain_incremental":
        return _domains(table, settings, random)
    classes = list(table.classes)
    if settings.kind == "joint":
        dealt = {"all": classes}
    elif settings.num_tasks is None:
        dealt = _groups_of_classes(table, settings)
        if settings.shuffle:
            dealt = {name: dealt[name] for name in random.sample(list(dealt), len(dealt))}
    else:
        if settings.shuffle:
            random.shuffle(classes)
        dealt = _deal(classes, settings.num_tasks)
    owner = {label: name for name, labels in dealt.items() for label in labels}
    rows: dict[str, list[int]] = {name: [] for name in dealt}
    for row, label in enumerate(table.labels):
        rows[owner[label]].append(row)
    return [_Plan(name, labels, rows[name]) for name, labels in dealt.items()]


def _domains(table: Table, settings: ScenarioSettings, random: Random) -> list[_Plan]:
    """A task per group, with the classes that occur in it."""
    if table.groups is None:
        raise InputError(
            "scenario.kind: 'domain_incremental' needs a source with groups, and this one has none "
            "(huggingface takes them from stream.task_column)"
        )
    rows: dict[str, list[int]] = {}
    for row, group in enumerate(table.groups):
        rows.setdefault(group, []).append(row)
    names = list(rows)
    if settings.shuffle:
        random.shuffle(names)
    plans = []
    for name in names:
        occurring = {table.labels[row] for row in rows[name]}
        classes = [label for label in table.classes if label in occurring]
        plans.append(_Plan(name, classes, rows[name]))
    return plans


def _groups_of_classes(table: Table, settings: ScenarioSettings) -> dict[str, list[str]]:
    """The source's groups in their order, each with its classes."""
    if table.groups is None:
        raise InputError(
            f"scenario.num_tasks: null needs a source with groups, and this one has none "
            f"(allowed: 1 to {len(table.classes)}, its number of classes)"
        )
    group_of: dict[str, str] = {}
    for label, group in zip(table.labels, table.groups, strict=True):
        if group_of.setdefault(label, group) != group:
            raise InputError(
                f"scenario.kind: {settings.kind!r} gives a class to one task only, and class "
                f"{label!r} occurs in the groups {group_of[label]!r} and {group!r}; take "
                "'domain_incremental', or deal the classes out with scenario.num_tasks"
            )
    groups: dict[str, list[str]] = {name: [] for name in table.groups}
    for label in table.classes:
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
    parts: Mapping[int, Part], cells: Mapping[int, tuple[int, str]], limit: int, seed: int
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


def _check_every_class_in_every_part(
    plans: Sequence[_Plan], cells: Mapping[int, tuple[int, str]], parts: Mapping[int, Part]
) -> None:
    sizes = {
        (task, label): dict.fromkeys(PARTS, 0)
        for task, plan in enumerate(plans)
        for label in plan.classes
    }
    for row, part in parts.items():
        sizes[cells[row]][part] += 1
    for (task, label), size in sizes.items():
        if not all(size.values()):
            total = sum(size.values())
            each = ", ".join(f"{count} {part}" for part, count in size.items())
            raise InputError(
                f"stream: class {label!r} of task {plans[task].name!r} has {total} "
                f"row{'' if total == 1 else 's'} ({each}); every part needs one at least, and "
                "equal rows and variants go to the same part"
            )


def _samples(table: Table, rows: Sequence[int], number: Mapping[str, int]) -> Samples:
    return Samples(
        values=[table.values[row] for row in rows],
        labels=torch.tensor([number[table.labels[row]] for row in rows], dtype=torch.int64),
        ids=torch.tensor(rows, dtype=torch.int64),
    )


def _digest(experiences: Iterable[Experience[Samples]]) -> str:
    """A sha256 of every row in order: its task, part, id, class number and value."""
    digest = sha256()
    for each in experiences:
        for part in PARTS:
            rows = each.part(part)
            for row, label, value in zip(
                rows.ids.tolist(), rows.labels.tolist(), rows.values, strict=True
            ):
                digest.update(f"{each.task.index} {part} {row} {label} ".encode())
                if isinstance(value, str):
                    digest.update(value.encode() + b"\n")
                else:
                    digest.update(f"{tuple(value.shape)} ".encode() + value.numpy().tobytes())
    return digest.hexdigest()
