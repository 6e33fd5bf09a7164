"""One word has one meaning: the table of words in platform/README.md holds for the names in the
code."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PLATFORM = Path(__file__).parents[1] / "platform"


@dataclass
class Row:
    """A row of the table."""

    words: list[str]
    rooms: list[str]
    """The folders or files that alone may have names of these words; none: all may."""
    banned: list[str]


def table() -> list[Row]:
    """The table of words in platform/README.md."""
    text = (PLATFORM / "README.md").read_text(encoding="utf-8")
    section = text.split("## Words", 1)[1].split("\n## ", 1)[0]
    lines = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("|")]
    return [
        Row(
            [word.strip() for word in words.split(",")],
            re.findall(r"`([\w/.]+)`", rooms),
            re.findall(r"`(\w+)`", banned),
        )
        for words, _, rooms, banned in lines[2:]
    ]


def names_in(path: Path) -> Iterator[str]:
    """What a file defines: itself, its classes, functions, arguments and variables."""
    yield path.stem
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def words_of(name: str) -> set[str]:
    """`shared_model`, `SharedModel` -> shared, model."""
    parts = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower().split("_")
    return {part for part in parts if part}


def names_by_word() -> dict[str, list[tuple[str, str]]]:
    """The names of the code that have a word, each as the file that it is in, below
    platform/lamina, and the name."""
    found = defaultdict(list)
    for path in sorted((PLATFORM / "lamina").rglob("*.py")):
        for name in set(names_in(path)):
            for word in words_of(name):
                found[word].append((path.relative_to(PLATFORM / "lamina").as_posix(), name))
    return found


def test_no_name_uses_a_word_that_the_table_rules_out():
    found = names_by_word()
    banned = [word for row in table() for word in row.banned]
    assert len(banned) >= 6
    assert {word: found[word] for word in banned if word in found} == {}


def test_a_word_is_a_name_only_in_the_rooms_that_the_table_lists():
    found = names_by_word()
    rows = [row for row in table() if row.rooms]
    assert rows
    for row in rows:
        for word in row.words:
            used = [*found[word], *found[f"{word}s"]]
            assert used, f"nothing is called {word!r}"
            assert [each for each in used if not each[0].startswith(tuple(row.rooms))] == []


def test_names_are_taken_apart_into_words():
    assert words_of("SharedModel") == words_of("shared_model") == {"shared", "model"}
    assert words_of("_LearningDesk") == {"learning", "desk"}
