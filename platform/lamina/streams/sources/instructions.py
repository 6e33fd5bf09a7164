"""Instructions with their answers, or plain texts, in files or on the Hugging Face hub."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from lamina.core import AnswerKind, Conversation, Modality, Part
from lamina.registry import InputError, unknown
from lamina.streams.base import Asked, Note, Table, Turn
from lamina.streams.checks import text_key
from lamina.streams.conversations import (
    FORMATS,
    Example,
    Format,
    Layout,
    asked_layout,
    asked_of,
    detected,
    example_of,
    layout_of,
    plain,
)
from lamina.streams.files import DataSet, find
from lamina.streams.names import counted, few_of
from lamina.streams.records import BY, Records, check_unicode, is_hole, times_of
from lamina.streams.table_source import TableSource
from lamina.streams.tables import ROW_IDS, Columns, check_columns, kind_of
from lamina.streams.tables import Format as Written

_NESTED = ("messages", "conversations", "history")
_ASKED = "{prompt}"


@dataclass(frozen=True)
class Instructions(TableSource):
    """Prompts with the answers to learn; or texts alone, which are learned as they are.

    The format is found by the columns, and printed. A prompt and its answer are tokenised apart, so
    that the loss is on the answer only. Of a conversation the last answer is learned, and the turns
    before it are its prompt. A row whose prompt is equal to another's (but for case and spaces)
    goes to the same part as it where parts are carved.
    """

    tasks: tuple[str, ...] | None = None
    """Files, or folders with a file for each split (`train.json`), below `path`: each is a task, in
    this order. null: one table, whose tasks `task_column` says."""
    format: Format | None = None
    """prompt (two texts), alpaca (instruction, input, output, system, history), sharegpt
    (conversations of from and value), messages (of role and content), or text (no prompt: continued
    pre-training); null finds it by the columns."""
    prompt_column: str | None = None
    """The column of prompts, instructions or conversations; null: as the format calls it."""
    answer_column: str | None = None
    """The column of answers, or of whole texts; null: as the format calls it."""
    input_column: str | None = None
    """The column of what an alpaca instruction is about; null: `input`, where there is one."""
    system_column: str | None = None
    """The column of what stands before all turns; null: `system`, where there is one."""
    history_column: str | None = None
    """The column of the earlier turns of alpaca rows; null: `history`, where there is one."""
    template: Literal["plain", "chat"] = "plain"
    """How turns become a prompt: one after the other, or by the chat template of the backbone's
    tokenizer."""
    prompt_format: str | dict[str, str] = _ASKED
    """What a plain prompt stands in, as `Question: {prompt} Answer:`; by task, where tasks
    differ."""
    system: str | None = None
    """What the system says to every row, instead of what the rows have: '' leaves it empty, which
    also keeps a chat template from putting in its own; null takes the rows'."""
    words_per_row: int | None = None
    """Plain texts are cut to rows of at most so many words; null keeps them whole."""
    empty: Literal["refuse", "skip"] = "refuse"
    """What becomes of rows with an empty prompt or answer (or one of blanks only): the data set is
    refused, or they are left out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tasks is not None:
            # As JSON has it, a list.
            object.__setattr__(self, "tasks", tuple(self.tasks))
            if not self.tasks or len(set(self.tasks)) < len(self.tasks):
                raise InputError(
                    f"stream.tasks: {list(self.tasks)} is not allowed (allowed: different ones)"
                )
            if self.task_column is not None:
                raise InputError(
                    f"stream.task_column: {self.task_column!r} does not go with stream.tasks, each "
                    "of which is a task (allowed: null)"
                )
        if self.template == "chat" and self.prompt_format != _ASKED:
            raise InputError(
                f"stream.prompt_format: {self.prompt_format!r} changes nothing with "
                "stream.template 'chat' (allowed: leave it out)"
            )
        form = self.prompt_format
        for text in form.values() if isinstance(form, dict) else [form]:
            if text.count(_ASKED) != 1:
                raise InputError(
                    f"stream.prompt_format: {text!r} does not say where a prompt stands (allowed: "
                    f"a text with one {_ASKED})"
                )
        if isinstance(form, dict) and not (self.tasks or self.task_column):
            raise InputError(
                "stream.prompt_format: there are no tasks to have one each (allowed: a text, or "
                "stream.tasks or stream.task_column)"
            )
        if self.words_per_row is not None and self.words_per_row < 1:
            raise InputError(
                f"stream.words_per_row: {self.words_per_row} is too few (allowed: null, 1, 2, ...)"
            )

    @property
    def modality(self) -> Modality:
        """Texts."""
        return "text"

    @property
    def answers(self) -> AnswerKind:
        """Texts that are generated."""
        return "tokens"

    @property
    def measure(self) -> str | None:
        """Perplexity of what the job says to be plain texts: nobody says a text word for word."""
        return "perplexity" if self._is_plain else None

    @property
    def _is_plain(self) -> bool:
        return self.format == "text" or self.words_per_row is not None

    def prompt_of(self, turns: Sequence[Turn], task: str | None = None) -> str:
        """The turns of a conversation as the prompts of its rows are; of no task, where tasks
        differ, as they are. Raises InputError for a task that `prompt_format` does not have."""
        if self.system is not None:
            rest = [turn for turn in turns if turn[0] != "system"]
            # A chat template puts in a system turn of its own where there is none.
            is_said = bool(self.system) or self.template == "chat"
            turns = [("system", self.system), *rest] if is_said else rest
        text = plain(turns)
        if self.template == "chat":
            return Conversation(text, turns)
        form = self.prompt_format
        if isinstance(form, dict):
            if task is not None and task not in form:
                raise unknown("stream.prompt_format", task, list(form))
            form = _ASKED if task is None else form[task]
        return form.replace(_ASKED, text)

    def load(self, seed: int) -> Table:
        """All rows, split by split, whatever the seed.

        Raises InputError where the data cannot be found or read, a split or a column is not there,
        no format has these columns, or a row does not read.
        """
        return self._table(None)

    def load_by(self, seed: int, column: str) -> Table:
        """All rows, with the time of each that a column says. Raises InputError as `load` does, and
        where the dates of the column cannot be read."""
        return self._table(column)

    def load_asked(self) -> Asked:
        """The rows of every split, to be answered: their turns, and the answers if they are there.
        Rows without a prompt are told apart and not refused.

        Raises InputError where the data cannot be found or read, or no format has these columns.
        """
        form = Written(self.delimiter, self.encoding, self.quote, self.field, self._nested)
        found = find(self.path, self.config, self.revision, form)
        found.check_form(form, self.path)
        readers = [(split, each) for split, several in found.splits.items() for each in several]
        layout = self._asked_layout(readers[0][1](()).names)
        keys = [
            (f"stream.{key}", name) for key, name in {**layout.needed, **layout.optional}.items()
        ]
        more = [self.task_column] if self.task_column is not None else []
        files: list[tuple[Part, str, Columns]] = []
        for split, read in readers:
            columns = read([*dict.fromkeys([*(name for _, name in keys), *more, ROW_IDS])])
            check_columns(columns, keys, split)
            files.append(("test", split, columns))
        rows = Records(files)
        cells = {name: rows.texts(name) for _, name in keys}
        kept = [row for row, cell in enumerate(cells[str(layout.prompt)]) if not is_hole(cell)]
        asked = [
            asked_of(layout, {name: each[row] for name, each in cells.items()}, rows.where(row))
            for row in kept
        ]
        answers = [answer for _, answer in asked]
        groups = self._asked_groups(rows)
        return Asked(
            values=[turns for turns, _ in asked],
            rows=kept,
            names=[rows.where(row) for row in kept],
            labels=None if all(each is None for each in answers) else answers,
            total=len(rows),
            groups=groups and [groups[row] for row in kept],
        )

    def _asked_groups(self, rows: Records) -> list[str | None] | None:
        """The task of each row that is asked: as a column says, or as the file or its folder is
        called. Raises InputError where prompts differ by task and nothing says which it is."""
        column = self.task_column
        if column is not None and all(column in columns.names for *_, columns in rows.files):
            return rows.texts(column)
        path = Path(self.path)
        for name in (path.name, path.stem, path.parent.name):
            if name in (self.tasks or ()):
                return [name] * len(rows)
        if isinstance(self.prompt_format, dict):
            raise InputError(
                f"stream.task_column: prompts differ by task, and nothing says of which one the "
                f"rows of {self.path!r} are (allowed: a column of tasks, or a file or folder that "
                "is called as a task)"
            )
        return None

    def _asked_layout(self, names: Sequence[str]) -> Layout:
        """What the columns of rows that are asked are, with those that the job names."""
        found = asked_layout(names) if self.format in (None, "text") else None
        if self.format not in (None, "text"):
            found = layout_of(self.format, names)
        if found is None and self.prompt_column is not None:
            found = Layout("prompt", self.prompt_column, None)
        if found is None:
            raise InputError(
                f"stream.prompt_column: no column of {self.path!r} is known as prompts, "
                f"{few_of([repr(name) for name in names], 20)} (allowed: the name of one)"
            )
        named = {
            key: getattr(self, f"{key}_column")
            for key in ("answer", "input", "system", "history")
            if getattr(self, f"{key}_column") in names
        }
        found = replace(found, prompt=self.prompt_column or found.prompt, **named)
        return found if found.answer in names else replace(found, answer=None)

    def _table(self, by: str | None) -> Table:
        read = [_Read(rows, layout, task) for rows, layout, task in self._read(by)]
        kept, notes = self._kept(read, by)
        made = _Made()
        for each, rows in zip(read, kept, strict=True):
            self._add(made, each, rows, by)
        if "train" not in made.parts:
            raise InputError(f"stream.empty: no row of split {self.train_split!r} is left")
        notes = [self._said_of_format(read), *notes]
        if made.num_answered:
            notes.append(_earlier_answers(made.num_answered, len(made.targets)))
        return Table(
            modality=self.modality,
            values=made.prompts,
            labels=["answer"] * len(made.targets),
            classes=["answer"],
            groups=made.groups or None,
            times=made.times if by is not None else None,
            parts=made.parts,
            templates=made.templates,
            owners={self.client_column: made.owners} if self.client_column else {},
            targets=made.targets,
            notes=notes,
        )

    # Files

    def _read(self, by: str | None) -> Iterator[tuple[Records, Layout, str | None]]:
        """The rows of each task, or of the one table, with what their columns are."""
        chosen = self.chosen()
        for task in self.tasks or (None,):
            found = self._found(task, chosen)
            files: list[tuple[Part, str, Columns]] = []
            layout = None
            for part, split in self.chosen(found.splits).items():
                for reader in found.splits[split]:
                    names = reader(()).names
                    layout = layout or self._layout(names)
                    keys = self._keys(layout, by)
                    columns = reader([*dict.fromkeys([column for _, column in keys]), ROW_IDS])
                    check_columns(columns, keys, split)
                    files.append((part, split, columns))
            rows = Records(files)
            self.check_not_void(rows, chosen)
            assert layout is not None
            yield rows, layout, task

    def _found(self, task: str | None, chosen: Mapping[Part, str]) -> DataSet:
        form = Written(self.delimiter, self.encoding, self.quote, self.field, self._nested)
        if task is None:
            found = find(self.path, self.config, self.revision, form)
        else:
            found = self._files_of(task, chosen, form)
        found.check_form(form, self.path)
        return found

    def _files_of(self, task: str, chosen: Mapping[Part, str], form: Written) -> DataSet:
        """The splits of a task: a file, or a folder with a file for each."""
        above = Path(self.path).expanduser()
        if not above.is_dir():
            raise InputError(f"stream.path: {self.path!r} is no folder, in which the tasks are")
        folder = above / task
        files = [each for each in sorted(above.rglob("*")) if kind_of(each) and each.is_file()]
        if not folder.is_dir():
            own = [each for each in files if str(each.relative_to(above)).split(".")[0] == task]
            if not own and not folder.is_file():
                names = {str(each.relative_to(above)) for each in above.iterdir()}
                raise unknown("stream.tasks", task, names)
            return find(str(own[0] if own else folder), None, None, form)
        by_split: dict[str, list[Path]] = {}
        for each in files:
            if each.parent == folder:
                by_split.setdefault(each.name.split(".")[0], []).append(each)
        for part, split in chosen.items():
            if split not in by_split:
                error = unknown(f"stream.{part}_split", split, list(by_split))
                raise InputError(f"{error}, in {str(folder)!r}")
        found = {split: find(str(by_split[split][0]), None, None, form) for split in by_split}
        return DataSet(
            {split: each.splits["train"] for split, each in found.items()},
            frozenset(kind for each in found.values() for kind in each.kinds),
        )

    @property
    def _nested(self) -> tuple[str, ...]:
        named = (self.prompt_column, self.history_column)
        return (*_NESTED, *(each for each in named if each is not None))

    # Columns

    def _layout(self, names: Sequence[str]) -> Layout:
        """The layout of the columns, with those that the job names."""
        named = {
            key: getattr(self, f"{key}_column")
            for key in ("prompt", "answer", "input", "system", "history")
            if getattr(self, f"{key}_column") is not None
        }
        if self.format is not None:
            found = layout_of(self.format, names)
        elif {"prompt", "answer"} <= named.keys():
            found = layout_of("prompt", names)
        else:
            known = detected(names)
            if known is None:
                raise InputError(
                    f"stream.format: none is found by the columns of {self.path!r}, "
                    f"{few_of([repr(name) for name in names], 20)}; name stream.prompt_column and "
                    f"stream.answer_column, or a format (allowed: {', '.join(FORMATS)})"
                )
            found = known
        for key, column in named.items():
            is_used = {
                "prompt": found.format != "text",
                "answer": found.format in ("prompt", "alpaca", "text"),
                "system": found.format != "text",
            }.get(key, found.format == "alpaca")
            if not is_used:
                raise InputError(
                    f"stream.{key}_column: {column!r} changes nothing in the format "
                    f"{found.format!r} (allowed: null)"
                )
        if self.words_per_row is not None and found.format != "text":
            raise InputError(
                f"stream.words_per_row: {self.words_per_row} changes nothing in the format "
                f"{found.format!r}, whose answers are never cut (allowed: null)"
            )
        return replace(found, **named)

    def _keys(self, layout: Layout, by: str | None) -> list[tuple[str, str]]:
        columns = {**layout.needed, **layout.optional}
        single = {"task_column": self.task_column, "client_column": self.client_column}
        columns |= {key: column for key, column in single.items() if column is not None}
        keys = [(f"stream.{key}", column) for key, column in columns.items()]
        return keys if by is None else [*keys, (BY, by)]

    # Rows

    def _kept(self, read: Sequence["_Read"], by: str | None) -> tuple[list[list[int]], list[Note]]:
        """For each task, the rows that are complete, and the notes on the others."""
        kept, empty = [], []
        for each in read:
            needed = dict.fromkeys(
                column
                for key, column in self._keys(each.layout, by)
                if key.removeprefix("stream.") not in each.layout.optional
            )
            cells = [each.rows.texts(column) for column in needed]
            rows = [row for row in range(len(each.rows)) if not any(is_hole(c[row]) for c in cells)]
            gone = set(range(len(each.rows))).difference(rows)
            empty += [each.where(row) for row in sorted(gone)]
            kept.append(rows)
        if not empty:
            return kept, []
        total = sum(len(each.rows) for each in read)
        said = f"{len(empty):,} of {counted(total, 'row')} {'is' if len(empty) == 1 else 'are'}"
        which = few_of(empty, 5)
        if self.empty == "refuse":
            raise InputError(
                f"stream.empty: {said} empty: {which}; fill them, or leave them out with "
                "stream.empty: skip"
            )
        line = f"{said} empty and left out: {which} (stream.empty: skip)"
        return kept, [Note("empty_rows", {"rows": len(empty), "of": total}, line)]

    def _add(self, made: "_Made", read: "_Read", kept: Sequence[int], by: str | None) -> None:
        """The rows of a task."""
        rows, layout = read.rows, read.layout
        columns = [*layout.needed.values(), *layout.optional.values()]
        cells = {column: rows.texts(column) for column in columns}
        tasks = None if self.task_column is None else rows.texts(self.task_column)
        owners = None if self.client_column is None else rows.texts(self.client_column)
        times = None if by is None else times_of(rows, by, kept)
        for column in cells:
            texts = [cells[column][row] or "" for row in kept]
            check_unicode(texts, "stream.path", kept, rows)
        for index, row in enumerate(kept):
            own = {column: each[row] for column, each in cells.items()}
            example = example_of(layout, own, read.where(row))
            made.num_answered += example.was_answered
            task = read.task if tasks is None else tasks[row]
            prompt = self.prompt_of(example.turns, task) if example.turns else ""
            for piece in self._pieces(example):
                made.prompts.append(prompt)
                made.targets.append(piece)
                made.templates.append(text_key(prompt or example.answer))
                made.parts.append(rows.parts[row])
                if task is not None:
                    made.groups.append(task)
                if owners is not None:
                    made.owners.append(str(owners[row]))
                if times is not None:
                    made.times.append(times[index])

    def _pieces(self, example: Example) -> list[str]:
        if self.words_per_row is None:
            return [example.answer]
        words = example.answer.split(" ")
        starts = range(0, len(words), self.words_per_row)
        return [" ".join(words[start : start + self.words_per_row]) for start in starts]

    # What is said

    def _said_of_format(self, read: Sequence["_Read"]) -> Note:
        layouts = list(dict.fromkeys(each.layout for each in read))
        said = []
        for layout in layouts:
            columns = {**layout.needed, **layout.optional}
            named = [f"{key.removesuffix('_column')} {name!r}" for key, name in columns.items()]
            said.append(f"{layout.format} ({', '.join(named)})")
        how = "by its columns" if self.format is None else "as the job says"
        if not self._is_plain and any(each.format == "text" for each in layouts):
            how += " (with stream.format: text R is of perplexity)"
        total = sum(len(each.rows) for each in read)
        return Note(
            "format",
            {"rows": total},
            f"format {' and '.join(said)}, {how}; template {self.template}",
        )


@dataclass(frozen=True)
class _Read:
    """The rows of one task, or of the one table."""

    rows: Records
    layout: Layout
    task: str | None

    def where(self, row: int) -> str:
        """What a person calls a row."""
        return self.rows.where(row) + ("" if self.task is None else f" of task {self.task!r}")


class _Made:
    """The rows of a table, as they are made."""

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.targets: list[str] = []
        self.templates: list[str] = []
        self.parts: list[Part] = []
        self.groups: list[str] = []
        self.owners: list[str] = []
        self.times: list[datetime] = []
        self.num_answered = 0
        """Rows whose prompt has answers of earlier turns."""


def _earlier_answers(number: int, total: int) -> Note:
    are = "is a conversation" if number == 1 else "are conversations"
    return Note(
        "earlier_answers",
        {"rows": number, "of": total},
        f"{number:,} of {counted(total, 'row')} {are} with several answers: the last one is "
        "learned, and the turns before it are its prompt",
    )
