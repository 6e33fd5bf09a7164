"""Facts about a bundle, in `bundle.json`; checked when they are read."""

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from lamina.core import AnswerKind, Modality, Part, Scenario, Task
from lamina.registry import InputError, unknown

Row = tuple[float | None, ...]
"""A row of an accuracy matrix."""
FORMAT = 1
"""The format number of a bundle's files. Other formats are refused by their number."""


@dataclass(frozen=True)
class TaskFacts:
    """A task that was learned."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    """What a person calls it."""
    classes: tuple[int, ...]
    """Places of its classes in `Facts.class_names`."""
    rows: dict[Part, int]
    """How many rows each part had."""


@dataclass(frozen=True)
class DataFacts:
    """Where consecutive tasks came from: what it takes to read their rows again."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    stream: dict[str, Any]
    """The job's `stream`."""
    scenario: dict[str, Any]
    """The job's `scenario`, as the rows were cut by it."""
    seed: int
    digest: str
    """A digest of the rows, tasks and classes: see `lamina.config.identity`."""
    num_tasks: int
    """How many tasks it made."""
    first_id: int
    """The number that was added to the ids of its rows."""
    end_id: int
    """Above the largest id of a row."""


@dataclass(frozen=True)
class BackboneFacts:
    """The frozen model that the adapters are laid over."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    """As the job calls it."""
    source: str
    """A hub id or a folder, from which plain transformers loads it."""
    digest: str
    """A digest of its files: see `lamina.backbones.content`."""
    model_type: str
    """Hugging Face's."""
    width: int
    """Numbers of a feature."""
    pooling: str
    """How tokens become one feature: `mean` or `first`."""
    max_length: int | None
    """Longest text in tokens; None for images."""


@dataclass(frozen=True)
class Facts:
    """The content of `bundle.json`."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    format: int
    """FORMAT of the version that wrote it."""
    name: str
    """The name of the trial for people."""
    trial: str
    """Its id."""
    scenario: Scenario
    modality: Modality
    one_pass: bool
    """Whether its stream was online."""
    class_names: tuple[str, ...]
    """The names of the classes, in the order of a head's rows."""
    tasks: tuple[TaskFacts, ...]
    """The tasks that were learned, in order."""
    backbone: BackboneFacts
    data: tuple[DataFacts, ...]
    """Where the tasks came from, in order."""
    metrics: dict[str, float]
    """The metrics of the last task's report, by name."""
    validation: tuple[Row, ...]
    """The accuracy matrix R of the validation parts, a row after each task."""
    test: tuple[Row, ...]
    """The accuracy matrix of the test parts."""
    origin: tuple[str, ...]
    """The digests (of `bundle.json`) of the bundles that it went on from, the first one first."""
    versions: dict[str, str]
    """Versions of the packages on which its answers depend."""
    files: dict[str, str]
    """The SHA-256 of every other file, by its path in the folder."""

    def task(self, name: str) -> Task | None:
        """The task of this name; None where there is none."""
        for index, each in enumerate(self.tasks):
            if each.name == name:
                return Task(index, name, each.classes, self.names_of(each))
        return None

    @property
    def answers(self) -> AnswerKind:
        """Its kind of answers: classes, or the tokens of texts."""
        return "classes" if self.class_names else "tokens"

    @property
    def needs_task(self) -> bool:
        """Whether every prediction must be told its task."""
        return self.scenario == "task_incremental"

    def told(self, name: str | None, key: str) -> Task | None:
        """The task of this name, where predictions are told theirs. Raises InputError, naming
        `key`, where it is missing, unknown or of no use."""
        names = [each.name for each in self.tasks]
        if not self.needs_task:
            if name is not None:
                raise InputError(
                    f"{key}: {name!r} is of no use: a {self.scenario} stream's predictions know no "
                    "task"
                )
            return None
        if name is None:
            raise InputError(f"{key}: missing, and predictions know it (allowed: {names})")
        found = self.task(name)
        if found is None:
            raise unknown(key, name, names)
        return found

    def names_of(self, task: TaskFacts) -> tuple[str, ...]:
        """The names of a task's classes."""
        return tuple(self.class_names[number] for number in task.classes)

    def dump(self) -> bytes:
        """As `bundle.json`."""
        return _FACTS.dump_json(self, indent=1) + b"\n"


_FACTS: TypeAdapter[Facts] = TypeAdapter(Facts)


class _Version:
    """Read first: another format need not have any of the other keys."""

    known = TypeAdapter(dict[str, object])


def read_facts(content: bytes, where: str) -> Facts:
    """Raises InputError where `content` is no `bundle.json` of this format."""
    try:
        found = _Version.known.validate_json(content).get("format")
        if found != FORMAT:
            raise InputError(f"{where}: format {found!r} is not known (allowed: {FORMAT})")
        facts = _FACTS.validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "it"
        raise InputError(f"{where}: {field} is wrong ({first['msg']})") from error
    _check(facts, where)
    return facts


def _is_inside(name: str) -> bool:
    """Whether a path stays in the folder that it is relative to."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and not {"\\", "\0"} & set(name)


def _check(facts: Facts, where: str) -> None:
    for name in facts.files:
        if not _is_inside(name):
            raise InputError(f"{where}: files: {name!r} is outside (allowed: paths in the folder)")
    number = len(facts.class_names)
    if len(set(facts.class_names)) != number:
        raise InputError(f"{where}: class_names holds a class twice")
    for each in facts.tasks:
        if not all(0 <= place < number for place in each.classes):
            raise InputError(
                f"{where}: tasks: {each.name!r} has classes that are not there (allowed: 0 to "
                f"{number - 1})"
            )
