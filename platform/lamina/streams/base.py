"""The interface of a data source, and the plain table of labelled rows that it gives."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar

from lamina.core import AnswerKind, Modality, Part
from lamina.registry import InputError

Turn = tuple[str, str]
"""A turn of a conversation: a role (`system`, `user`, `assistant` or `tool`) and a text."""


@dataclass(frozen=True)
class Note:
    """Something about rows that a person should know, although the run goes on."""

    about: str
    """The subject in one word: `empty_rows`, `alike_labels` ..."""
    counts: Mapping[str, int]
    """How many, by what is counted."""
    line: str
    """In one line for people."""

    def plain(self) -> dict[str, Any]:
        """The note as plain JSON."""
        return {"about": self.about, **self.counts, "line": self.line}


@dataclass(frozen=True)
class Table:
    """N labelled rows of a source, before any scenario; a row is known by its index here."""

    modality: Modality
    """Whether the values are texts or images."""
    values: Sequence[Any]
    """N texts, or N images as uint8 tensors [height, width, 3] (maybe as LazyValues)."""
    labels: Sequence[str]
    """N label names."""
    classes: Sequence[str]
    """Every label that occurs, once, in the source's natural order."""
    groups: Sequence[str] | None = None
    """N names of the natural task (a topic, a domain) of each row, if the source has such."""
    times: Sequence[datetime] | None = None
    """N times, where tasks are cut by time (`scenario.by`)."""
    parts: Sequence[Part] | None = None
    """N official parts; None where the source has no split of its own."""
    templates: Sequence[str] | None = None
    """N keys; rows with the same key are variants of each other, which no carved part divides."""
    owners: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By name, N values of what each row belongs to (a language, a room, a user): the natural
    clients of a federation."""
    targets: Sequence[str] | None = None
    """N answers to be generated, where answers are tokens. Labels only keep a split even then."""
    notes: Sequence[Note] = ()
    """Notes on what was found when the rows were read."""
    min_per_class: int | None = None
    """A class of a task with fewer rows, or with too few to have one in every part, is left out;
    None refuses it."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Asked:
    """N rows to be answered, in the order of their files."""

    values: Sequence[Any]
    """N texts, or N images (maybe as LazyValues); or the turns of N prompts."""
    rows: Sequence[int]
    """Their places among all rows, from 0; empty rows are left out."""
    names: Sequence[str]
    """The names of the rows for people."""
    labels: Sequence[str | None] | None
    """The right answers, where the data has them; None for a row without one."""
    total: int
    """How many rows there are, empty ones too."""
    groups: Sequence[str | None] | None = None
    """The natural task of each row, where the data says so."""


@dataclass(frozen=True)
class Source(ABC):
    """Where labelled rows come from.

    A member is a module of `lamina.streams.sources`; its fields are its keys in the job's `stream`.
    """

    group_key: ClassVar[str | None] = None
    """The setting that names the column of `Table.groups`, where one does."""
    owner_key: ClassVar[str | None] = None
    """The setting that names the column of `Table.owners`, where one does."""

    @property
    @abstractmethod
    def modality(self) -> Modality:
        """The modality of its rows, known before they are loaded."""

    @property
    def answers(self) -> AnswerKind:
        """The kind of answers of its rows, known before they are loaded."""
        return "classes"

    @property
    def measure(self) -> str | None:
        """What R is of where the job does not say; None: what it is of such answers."""
        return None

    @abstractmethod
    def load(self, seed: int) -> Table:
        """Its rows: the same ones for the same fields and seed.

        Raises InputError, naming the job's key, where they cannot be had.
        """

    def load_by(self, seed: int, column: str) -> Table:
        """Its rows with the time of each, which a column says; rows without one are no rows.

        Raises InputError as `load` does, and where there is no such column or it holds no dates.
        """
        raise InputError(
            f"scenario.by: {column!r} cannot be read, as the source {self.name!r} has no dates "
            "(huggingface reads a column of them; allowed here: null)"
        )

    def prompt_of(self, turns: Sequence[Turn], task: str | None = None) -> str:
        """The turns of a conversation, the oldest first, as the prompts of its rows (of the task)
        are. Default: the text of the one turn that there is.

        Raises InputError for a conversation that its rows have nothing of.
        """
        if len(turns) != 1 or turns[0][0] != "user":
            roles = ", ".join(role for role, _ in turns)
            raise InputError(
                f"messages: {roles} were given, and the stream {self.name!r} has prompts of one "
                "turn (allowed: one message, of the role user)"
            )
        return turns[0][1]

    @property
    def name(self) -> str:
        """Its name in a job."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def own_parts(self) -> Mapping[Part, str]:
        """The split that is the validation or the test part, where the job names one: such a part
        is not carved out of the training rows."""
        return {}

    @property
    def settings(self) -> Mapping[str, Any]:
        """Its section of the job, as plain values."""
        return {"name": self.name, **asdict(self)}


def demo_module(module: str, source: str) -> ModuleType:
    """A module of a package that only the demonstration streams need.

    Raises InputError with the command that installs it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise missing_package(error.name or module, source) from error


def missing_package(package: str, source: str) -> InputError:
    """What to say when a demonstration stream lacks its package."""
    return InputError(
        f"stream.name: {source!r} needs {package}, which is not installed "
        '(pip install "lamina[demo]")'
    )
