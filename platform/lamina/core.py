"""The nouns: Task, Experience, Stream, Samples, Batch, StepOutput, Summary. Imports torch and
nothing else of weight.

A **stream** is a sequence of **experiences**; an experience is a **task** with its data in three
parts: train, validation and test. A stream comes from `lamina.streams` as `Stream[Samples]` (texts
or images, as people see them) and is encoded once by a backbone into `Stream[Batch]` (tensors, as a
Hugging Face model takes them). From then on any set of rows is a `Batch`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor

Scenario = Literal[
    "class_incremental", "task_incremental", "domain_incremental", "joint", "task_free"
]
Modality = Literal["text", "image"]
AnswerKind = Literal["classes", "tokens"]
"""What a stream's labels are: a class for each row, or the tokens of an answer."""
Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
IGNORED = -100
"""The label of a token that no loss counts, as in transformers."""
ANSWER_AT = "lamina_answer_at"
"""Among a batch's inputs where answers are tokens: int64 [N], how many tokens of a row come before
its answer. No model reads it."""
DECODED = "decoder_input_ids"
"""Among a batch's inputs where a model with a decoder answers in tokens: int64 [N, A], what the
decoder reads, each token of an answer in the place of the next one."""
DECODED_MASK = "decoder_attention_mask"
"""Beside DECODED: 1 at the tokens of an answer, [N, A]."""
KEYS = "lamina_keys"
"""Among a batch's inputs: int64 [N], what a backbone's feature store knows its rows by. No model
reads it."""


def seed_of(seed: int, *names: str | int) -> int:
    """A 63-bit seed that depends on `seed` and on what the draw is for, and on nothing else.

    Every random draw in Lamina comes from such a named seed, so adding a draw somewhere moves no
    other.
    """
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big") >> 1


def generator_of(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator seeded by `seed_of`."""
    return torch.Generator().manual_seed(seed_of(seed, *names))


@dataclass(frozen=True)
class Task:
    """A step of a stream: which classes it may show."""

    index: int
    """Its index in the stream, from 0."""
    name: str
    """What a person calls it."""
    classes: tuple[int, ...]
    """The classes it shows, numbered by first appearance in the stream; empty where answers are
    tokens."""
    class_names: tuple[str, ...] = field(default=(), compare=False)
    """What a person calls these classes, in the same order; an encoded stream's tasks know."""


class Conversation(str):
    """A prompt of several turns, for a tokenizer's chat template; as a text, the turns under a
    plain template."""

    turns: tuple[tuple[str, str], ...]
    """Role (`system`, `user`, `assistant` or `tool`) and text of each, the oldest first."""

    def __new__(cls, text: str, turns: Sequence[tuple[str, str]]) -> "Conversation":
        made = super().__new__(cls, text)
        made.turns = tuple(turns)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return Conversation, (str(self), self.turns)


class RowSource(Protocol):
    """Rows that are read one by one, when they are asked for (images that are decoded, say)."""

    def __getitem__(self, row: int) -> Tensor:
        """One row."""
        ...

    def digest(self, row: int) -> bytes:
        """Of what a row says, found without reading all of it: equal digests, equal rows."""
        ...

    def name(self, row: int) -> str:
        """What a person calls it."""
        ...


@dataclass(frozen=True, eq=False)
class LazyValues(Sequence[Tensor]):
    """Some rows of a source; `values[i]` reads one."""

    source: RowSource
    """Where they are read."""
    rows: Tensor
    """int64 [N], their numbers there."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return LazyValues(self.source, self.rows[index])
        return self.source[int(self.rows[index])]

    def digest(self, index: int) -> bytes:
        """Of one row."""
        return self.source.digest(int(self.rows[index]))


def values_at(values: Sequence[Any], indices: Sequence[int]) -> Sequence[Any]:
    """Some of the values of samples, in this order; those that are lazy are not read."""
    if isinstance(values, LazyValues):
        return LazyValues(values.source, values.rows[torch.tensor(indices, dtype=torch.int64)])
    return [values[index] for index in indices]


def joined_values(pieces: Sequence[Sequence[Any]]) -> Sequence[Any]:
    """The values of all pieces, one piece after the other; those of one lazy source are not
    read."""
    lazy = [each for each in pieces if isinstance(each, LazyValues)]
    if lazy and len(lazy) == len(pieces) and all(each.source is lazy[0].source for each in lazy):
        return LazyValues(lazy[0].source, torch.cat([each.rows for each in lazy]))
    return [value for piece in pieces for value in piece]


class Maker(Protocol):
    """Makes an input of a model from values."""

    @property
    def digest(self) -> str:
        """Of all that the result depends on besides the values."""
        ...

    def __call__(self, values: LazyValues) -> Tensor:
        """From N values to a tensor [N, ...]: each row depends on its own value only."""
        ...


@dataclass(frozen=True, eq=False)
class LazyInput:
    """An input of a model for N rows, made from values when it is needed."""

    values: LazyValues
    """What it is made of."""
    make: Maker
    """What makes it."""

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """The input of some rows, made."""
        return self.pick(rows).tensor()

    def pick(self, rows: Tensor | slice) -> "LazyInput":
        """Some rows, not made yet."""
        chosen = rows.cpu() if isinstance(rows, Tensor) else rows
        return LazyInput(LazyValues(self.values.source, self.values.rows[chosen]), self.make)

    @staticmethod
    def joined(inputs: Sequence["LazyInput"]) -> "LazyInput":
        """The rows of all, in order. They are of one stream."""
        values = joined_values([each.values for each in inputs])
        assert isinstance(values, LazyValues), "rows of several streams cannot be joined"
        return LazyInput(values, inputs[0].make)

    def tensor(self) -> Tensor:
        """The input of all rows, made."""
        return self.make(self.values)

    def digest(self, index: int) -> bytes:
        """Of one row."""
        return self.make.digest.encode() + self.values.digest(index)

    def num_bytes(self) -> int:
        """What the tensor would take."""
        if len(self) == 0:
            return 0
        row = self[slice(0, 1)]
        return row.numel() * row.element_size() * len(self)


@dataclass(frozen=True)
class Samples:
    """Rows of one part of an experience, as the source gave them."""

    values: Sequence[Any]
    """N texts (conversations among them), or N images as uint8 tensors [height, width, channels];
    images may be lazy."""
    labels: Tensor
    """int64 [N], class numbers; all zero where `targets` is given."""
    ids: Tensor
    """int64 [N], unique in the stream: what replay, features and seeds are keyed by."""
    targets: Sequence[str] | None = None
    """N answers, where answers are tokens."""

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: Tensor) -> "Samples":
        """The rows of these indices, in the given order; those that are lazy are not read."""
        chosen: Sequence[int] = rows.tolist()
        return Samples(
            values=values_at(self.values, chosen),
            labels=self.labels[rows],
            ids=self.ids[rows],
            targets=None if self.targets is None else [self.targets[row] for row in chosen],
        )


@dataclass(frozen=True)
class Batch:
    """Rows as a model takes them. A whole part of an experience is a (large) batch too."""

    inputs: Mapping[str, Tensor]
    """What the Hugging Face model's forward takes (`input_ids`, `attention_mask`, `pixel_values`
    ...), each [N, ...]; and KEYS, where there is a feature store."""
    labels: Tensor
    """int64 [N] class numbers; or int64 [N, A], the tokens of answers alone, with IGNORED on the
    right of those that are shorter than A."""
    ids: Tensor
    """int64 [N], unique in the stream."""
    task: Task | None = None
    """The task these rows come from, where the learner may know it."""
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    """What a strategy stored with an exemplar (its logits when it was learned, say), each [N, ...].
    """
    lazy: Mapping[str, LazyInput] = field(default_factory=dict)
    """Inputs that are made when the rows go to a device (`to`), by name; empty from then on."""
    shared_classes: tuple[int, ...] | None = None
    """Where these rows are a data-parallel worker's share of a batch: the classes of the batch."""

    def __len__(self) -> int:
        return len(self.ids)

    def classes(self) -> tuple[int, ...]:
        """The classes that occur in the batch, ascending, over all workers that share it. Labels
        are class numbers."""
        if self.shared_classes is not None:
            return self.shared_classes
        return tuple(self.labels.unique().tolist())

    def __getitem__(self, rows: Tensor | slice) -> "Batch":
        """The given rows, in the given order."""
        pick = _picker(rows)
        return replace(
            self,
            inputs={name: pick(value) for name, value in self.inputs.items()},
            labels=pick(self.labels),
            ids=pick(self.ids),
            extras={name: pick(value) for name, value in self.extras.items()},
            lazy={name: value.pick(rows) for name, value in self.lazy.items()},
        )

    def num_terms(self) -> int:
        """How many terms the mean of a loss over the batch has: its rows, or where answers are
        tokens, the tokens of all answers. Means over parts of a batch weigh as much."""
        if self.labels.dim() == 1:
            return len(self)
        return int((self.labels != IGNORED).sum())

    def num_bytes(self) -> int:
        """What the model reads of these rows, their labels and extras take."""
        inputs = [value for name, value in self.inputs.items() if name != KEYS]
        tensors = [*inputs, self.labels, *self.extras.values()]
        lazy = sum(each.num_bytes() for each in self.lazy.values())
        return lazy + sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def to(self, device: torch.device | str) -> "Batch":
        """The same rows on `device`, with every input that is lazy made."""
        made = {name: value.tensor() for name, value in self.lazy.items()}
        return replace(
            self,
            inputs={
                name: value.to(device, non_blocking=True)
                for name, value in {**self.inputs, **made}.items()
            },
            lazy={},
            labels=self.labels.to(device, non_blocking=True),
            ids=self.ids,
            extras={
                name: value.to(device, non_blocking=True) for name, value in self.extras.items()
            },
        )

    def trimmed(self) -> "Batch":
        """Without the columns of padding that no row of this batch needs."""
        mask = self.inputs.get("attention_mask")
        if mask is None or len(self) == 0:
            return self
        labels = self.labels
        if labels.dim() == 2:
            labels = labels[:, : int((labels != IGNORED).sum(dim=1).max())]
        # Texts that are padded on the left end in the last column.
        length = int(mask.any(dim=0).nonzero().max()) + 1
        inputs = {
            name: value[:, :length] if value.shape[:2] == mask.shape else value
            for name, value in self.inputs.items()
        }
        for name in {DECODED, DECODED_MASK} & self.inputs.keys():
            # What a decoder reads first is there before any answer.
            inputs[name] = self.inputs[name][:, : max(1, labels.shape[1])]
        return replace(self, inputs=inputs, labels=labels)

    def lengths(self) -> Tensor:
        """int64 [N], the tokens of each text; 1 for what is no text."""
        mask = self.inputs.get("attention_mask")
        return torch.ones_like(self.ids) if mask is None else mask.sum(dim=1)

    def by_length(self) -> "Batch":
        """The same rows sorted by their number of tokens, where they are texts: consecutive rows
        are then hardly padded."""
        lengths = self.lengths()
        return self if bool((lengths == 1).all()) else self[lengths.argsort(stable=True)]

    def chunks(self, size: int) -> Iterator["Batch"]:
        """Consecutive batches of at most `size` rows, each trimmed."""
        for start in range(0, len(self), size):
            yield self[slice(start, start + size)].trimmed()

    @staticmethod
    def cat(batches: Sequence["Batch"]) -> "Batch":
        """The rows of all, in order; token columns are padded on the right. `task` and `extras` are
        kept if all agree. An input that is made in one and lazy in another is made."""
        first = batches[0]
        if any(batch.lazy.keys() != first.lazy.keys() for batch in batches):
            batches = [batch.to(batch.ids.device) for batch in batches]
            first = batches[0]
        same_task = all(batch.task == first.task for batch in batches)
        unknown = any(KEYS not in batch.inputs for batch in batches)
        shared = set.intersection(*(set(batch.extras) for batch in batches))
        return Batch(
            inputs={
                name: _cat_padded([batch.inputs[name] for batch in batches])
                for name in first.inputs
                if not (name == KEYS and unknown)
            },
            labels=_cat_padded([batch.labels for batch in batches], padding=IGNORED),
            ids=torch.cat([batch.ids for batch in batches]),
            task=first.task if same_task else None,
            extras={
                name: torch.cat([batch.extras[name] for batch in batches])
                for name in sorted(shared)
            },
            lazy={
                name: LazyInput.joined([batch.lazy[name] for batch in batches])
                for name in first.lazy
            },
        )


def _picker(rows: Tensor | slice) -> Callable[[Tensor], Tensor]:
    if isinstance(rows, slice):
        return lambda value: value[rows]
    return lambda value: value.index_select(0, rows.to(value.device))


def _cat_padded(tensors: Sequence[Tensor], padding: int = 0) -> Tensor:
    """Concatenate on dimension 0, padding dimension 1 on the right where two-dimensional widths
    differ."""
    width = max(tensor.shape[1] if tensor.dim() == 2 else 0 for tensor in tensors)
    return torch.cat(
        [
            torch.nn.functional.pad(tensor, (0, width - tensor.shape[1]), value=padding)
            if tensor.dim() == 2 and tensor.shape[1] < width
            else tensor
            for tensor in tensors
        ]
    )


D = TypeVar("D", Samples, Batch)
E = TypeVar("E", Samples, Batch)


@dataclass(frozen=True)
class Experience(Generic[D]):
    """A task with its data. The validation part selects; the test part is only ever reported."""

    task: Task
    train: D
    validation: D
    test: D

    def part(self, name: Part) -> D:
        """Its train, validation or test part."""
        part: D = getattr(self, name)
        return part


@dataclass(frozen=True)
class Stream(Generic[D]):
    """A sequence of experiences, and how it was made."""

    name: str
    scenario: Scenario
    modality: Modality
    class_names: tuple[str, ...]
    """The label of each class number, in the order of first appearance."""
    experiences: tuple[Experience[D], ...]
    record: Mapping[str, Any] = field(default_factory=dict)
    """What made it: settings, seed, schedule, sizes, a digest of its rows. Plain JSON."""
    one_pass: bool = False
    """Whether every row is trained on once, as it comes: an online stream."""
    answers: AnswerKind = "classes"
    """What its labels are."""

    def __len__(self) -> int:
        return len(self.experiences)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of its rows, a line each: what was left out, what looks like a
        mistake."""
        return tuple(each["line"] for each in self.record.get("notes", ()))

    def with_notes(self, *notes: Mapping[str, Any]) -> "Stream[D]":
        """The same stream, with more notes in its record: each has its `line` and its counts."""
        known = [*self.record.get("notes", ()), *notes]
        return replace(self, record={**self.record, "notes": known}) if notes else self

    def map(self, encode: Callable[[D], E]) -> "Stream[E]":
        """The same stream with every part encoded (texts tokenised, images normalised)."""
        experiences = tuple(
            Experience(
                task=each.task,
                train=encode(each.train),
                validation=encode(each.validation),
                test=encode(each.test),
            )
            for each in self.experiences
        )
        return Stream(
            self.name,
            self.scenario,
            self.modality,
            self.class_names,
            experiences,
            self.record,
            self.one_pass,
            self.answers,
        )


@dataclass(frozen=True)
class StepOutput:
    """What a strategy says of one batch: the loss to descend, and scalars worth recording."""

    loss: Tensor
    """A scalar with a gradient."""
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    """Scalars without a gradient: the parts of the loss, say."""
    references: Sequence[Tensor] = ()
    """Other losses, scalars with a gradient, whose gradients `Strategy.adjust` compares the step's
    own with."""
    rows: "Batch | None" = None
    """The rows that the loss is a mean over, where exemplars are among them. Default: the batch."""
    seen: "Summary | None" = None
    """What `Strategy.after_step` must know of this batch, summed over data-parallel workers."""


@dataclass(frozen=True)
class Summary:
    """What a strategy needs to know of a task's data, as sums over its rows.

    Summaries add: over batches, over data-parallel workers, over federated clients. A strategy that
    only keeps sums therefore gives the same result wherever its rows were.
    """

    sums: Mapping[str, Tensor]
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    """What cannot be had from sums (the features that k-means clusters, say): values of every row,
    [n, ...], that are put one after the other. They say more of the rows than a sum does, so what
    needs them cannot be federated."""

    def __add__(self, other: "Summary") -> "Summary":
        if self.sums.keys() != other.sums.keys():
            raise ValueError(
                f"summaries of {sorted(self.sums)} and {sorted(other.sums)} do not add"
            )
        return Summary(
            {name: value + other.sums[name] for name, value in self.sums.items()},
            {name: torch.cat([value, other.rows[name]]) for name, value in self.rows.items()},
        )

    def __getitem__(self, name: str) -> Tensor:
        return self.sums[name] if name in self.sums else self.rows[name]
