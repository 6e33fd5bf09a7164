"""Rows of instruction data as prompt and answer, in the formats that are in use: which columns a
format has, and how a row of it reads."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal, get_args

from lamina.registry import InputError
from lamina.streams.base import Turn
from lamina.streams.names import is_blank

Format = Literal["prompt", "alpaca", "sharegpt", "messages", "text"]
FORMATS: tuple[Format, ...] = get_args(Format)
PAIRS = (
    ("prompt", "completion"),
    ("prompt", "answer"),
    ("prompt", "response"),
    ("question", "answer"),
    ("instruction", "response"),
    ("query", "response"),
    ("input", "output"),
    ("source", "target"),
)
"""How data sets call prompt and answer, where both are texts: trl the first, TRACE the second."""
_NO_ANSWER = ""
"""The column of answers where there is none."""
ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
"""The names of speakers in the formats, and in chat templates."""


@dataclass(frozen=True)
class Layout:
    """Which columns of a table are what, under one format. None: there is no such column."""

    format: Format
    prompt: str | None
    """The prompt, the instruction, or the whole conversation; none where texts have no prompt."""
    answer: str | None
    """The answer, or the whole text; none where a conversation ends in it."""
    input: str | None = None
    """Below an instruction, what it is about (alpaca)."""
    system: str | None = None
    """The system prompt, before all turns."""
    history: str | None = None
    """Earlier turns: pairs of question and answer (alpaca)."""

    @property
    def needed(self) -> dict[str, str]:
        """The columns that a row cannot do without, by the key that names them."""
        named = {"prompt_column": self.prompt, "answer_column": self.answer}
        return {key: column for key, column in named.items() if column is not None}

    @property
    def optional(self) -> dict[str, str]:
        """The others, whose cells may be empty."""
        named = {
            "input_column": self.input,
            "system_column": self.system,
            "history_column": self.history,
        }
        return {key: column for key, column in named.items() if column is not None}


@dataclass(frozen=True)
class Example:
    """A row: what is asked, and the answer that is learned."""

    turns: Sequence[Turn]
    """The prompt, ending in what is asked; none where a text is learned as it is."""
    answer: str
    was_answered: bool = False
    """Whether an earlier turn of the prompt is an answer as well."""


def detected(names: Collection[str]) -> Layout | None:
    """The layout of a table with these columns; None where no format has them."""
    there = {name: name for name in names}
    if "messages" in there:
        return Layout("messages", "messages", None)
    if "conversations" in there:
        return Layout("sharegpt", "conversations", None, system=there.get("system"))
    if {"instruction", "output"} <= set(there):
        more = {key: there.get(key) for key in ("input", "system", "history")}
        return Layout("alpaca", "instruction", "output", **more)
    for prompt, answer in PAIRS:
        if {prompt, answer} <= set(there):
            return Layout("prompt", prompt, answer, system=there.get("system"))
    return Layout("text", None, "text") if "text" in there else None


def asked_layout(names: Collection[str]) -> Layout | None:
    """The layout of a table with these columns that is asked, so that it need not have answers;
    None where no format has them. What is a text alone elsewhere is a prompt here."""
    found = detected(names)
    if found is not None:
        return Layout("prompt", "text", None) if found.format == "text" else found
    for prompt, answer in (("instruction", "output"), *PAIRS):
        if prompt in names:
            whole = detected({*names, answer})
            assert whole is not None, "a pair is a format"
            return replace(whole, answer=None)
    return None


def layout_of(format_: Format, names: Collection[str]) -> Layout:
    """The layout of a table that is of a format, its columns called as the format calls them."""
    found = detected(names)
    if found is not None and found.format == format_:
        return found
    there = {name: name for name in names}
    if format_ in ("messages", "sharegpt"):
        column = "messages" if format_ == "messages" else "conversations"
        return Layout(format_, column, None, system=there.get("system"))
    if format_ == "alpaca":
        more = {key: there.get(key) for key in ("input", "system", "history")}
        return Layout(format_, "instruction", "output", **more)
    if format_ == "prompt":
        pairs = [pair for pair in PAIRS if set(pair) <= set(there)]
        prompt, answer = pairs[0] if pairs else PAIRS[0]
        return Layout(format_, prompt, answer, system=there.get("system"))
    return Layout(format_, None, "text")


def example_of(layout: Layout, cells: Mapping[str, str | None], where: str) -> Example:
    """A row, its cells by column. Raises InputError, naming the row, where it does not read."""
    first = _system_of(layout, cells)
    if layout.format == "text":
        return Example([], str(cells[str(layout.answer)]))
    if layout.format in ("messages", "sharegpt"):
        turns = _turns_of(layout, str(cells[str(layout.prompt)]), where)
        return _of_conversation([*first, *turns], where)
    prompt = str(cells[str(layout.prompt)])
    more = cells.get(layout.input or "")
    if more is not None and not is_blank(more):
        prompt = f"{prompt}\n{more}"
    earlier = _history_of(layout, cells.get(layout.history or ""), where)
    answer = str(cells[str(layout.answer)])
    return Example([*first, *earlier, ("user", prompt)], answer, was_answered=bool(earlier))


def asked_of(
    layout: Layout, cells: Mapping[str, str | None], where: str
) -> tuple[Sequence[Turn], str | None]:
    """What a row asks, and the answer that is right, if it has one. Raises InputError, naming the
    row, where it does not read."""
    if layout.format in ("messages", "sharegpt"):
        turns = _turns_of(layout, str(cells[str(layout.prompt)]), where)
        if turns and turns[-1][0] != "assistant":
            return [*_system_of(layout, cells), *turns], None
    whole = replace(layout, answer=layout.answer or _NO_ANSWER)
    example = example_of(whole, {_NO_ANSWER: "", **cells}, where)
    return example.turns, example.answer if example.answer.strip() else None


def plain(turns: Sequence[Turn]) -> str:
    """Turns as a text: a question as it is, below what the system says; where there are several,
    each behind its role."""
    said = [turn for turn in turns if turn[0] != "system"]
    if len(said) < 2:
        return "\n".join(text for _, text in turns)
    named = (text if role == "system" else f"{role}: {text}" for role, text in turns)
    return "\n".join([*named, "assistant: "])


def _system_of(layout: Layout, cells: Mapping[str, str | None]) -> list[Turn]:
    system = cells.get(layout.system or "")
    return [] if system is None or is_blank(system) else [("system", system)]


def _of_conversation(turns: Sequence[Turn], where: str) -> Example:
    """The last answer is learned, what comes before it is its prompt, and what follows is left."""
    answers = [index for index, (role, _) in enumerate(turns) if role == "assistant"]
    if not answers or is_blank(turns[answers[-1]][1]):
        raise InputError(f"stream.path: {where} has no answer (allowed: a turn of the assistant)")
    if not any(role == "user" for role, _ in turns[: answers[-1]]):
        raise InputError(
            f"stream.path: {where} has no turn of a user before its answer (allowed: one at least)"
        )
    return Example(turns[: answers[-1]], turns[answers[-1]][1], was_answered=len(answers) > 1)


def _turns_of(layout: Layout, cell: str, where: str) -> list[Turn]:
    role, text = ("role", "content") if layout.format == "messages" else ("from", "value")
    listed = _list_in(cell, str(layout.prompt), where)
    turns = []
    for number, turn in enumerate(listed, 1):
        if not isinstance(turn, dict) or not {role, text} <= turn.keys():
            given = ", ".join(turn) if isinstance(turn, dict) else type(turn).__name__
            raise InputError(
                f"stream.format: turn {number} of {where} has {given} "
                f"(allowed in {layout.format!r}: {role}, {text})"
            )
        turns.append((_role_of(str(turn[role]), where), _text_of(turn[text], number, where)))
    return turns


def _role_of(given: str, where: str) -> str:
    if given in ROLES:
        return ROLES[given]
    near = get_close_matches(given, list(ROLES), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise InputError(
        f"stream.path: {where} has a turn of {given!r}{hint} (allowed: {', '.join(ROLES)})"
    )


def _text_of(content: Any, number: int, where: str) -> str:
    """The text of a turn, which may be given in pieces."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(each, dict) for each in content):
        texts = [each.get("text") for each in content]
        if all(isinstance(each, str) for each in texts):
            return "\n".join(map(str, texts))
    raise InputError(f"stream.path: turn {number} of {where} is no text (allowed: texts)")


def _history_of(layout: Layout, cell: str | None, where: str) -> list[Turn]:
    if cell is None or is_blank(cell):
        return []
    turns = []
    for pair in _list_in(cell, str(layout.history), where):
        if not isinstance(pair, list) or len(pair) != 2:
            raise InputError(
                f"stream.history_column: {where} has a history that is no list of pairs (allowed: "
                "[[question, answer], ...])"
            )
        turns += [("user", str(pair[0])), ("assistant", str(pair[1]))]
    return turns


def _list_in(cell: str, column: str, where: str) -> list[Any]:
    try:
        listed = json.loads(cell)
    except ValueError:
        listed = None
    if not isinstance(listed, list):
        raise InputError(
            f"stream.path: {column!r} of {where} is no list of turns: {cell[:40]!r} (allowed: a "
            "list, or a text that is one in JSON)"
        )
    return listed
