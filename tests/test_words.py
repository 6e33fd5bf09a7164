"""One word has one meaning: the table of words in platform/README.md holds for the names in the
code."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PLATFORM = Path(__file__).parents[1] / "platform"


def banned() -> dict[str, str]:
    """The words of the table's last column, and the row that each is in."""
    text = (PLATFORM / "README.md").read_text(encoding="utf-8")
    table = text.split("## Words", 1)[1].split("\n## ", 1)[0]
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("|")]
    return {word: row[0].strip() for row in rows[2:] for word in re.findall(r"`(\w+)`", row[2])}


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


def test_no_name_uses_a_word_that_the_table_rules_out():
    found = banned()
    assert len(found) >= 6
    wrong = [
        f"{path.relative_to(PLATFORM)}: {name} (see {found[word]!r})"
        for path in sorted(PLATFORM.rglob("*.py"))
        for name in set(names_in(path))
        for word in sorted(words_of(name) & found.keys())
    ]
    assert wrong == []


def test_names_are_taken_apart_into_words():
    assert words_of("SharedModel") == words_of("shared_model") == {"shared", "model"}
    assert words_of("_LearningDesk") == {"learning", "desk"}
