"""Rows of a file, or lines of standard input, that are answered some at a time: what `lamina
predict` does, whatever an answer is."""

import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

from lamina.streams.base import Asked

T = TypeVar("T")


def answered_rows(
    asked: Asked, at_a_time: int, answer: Callable[[slice], Sequence[T]], console: Console
) -> Iterator[tuple[int, T]]:
    """The number of each row, from 1, with what `answer` gives for it; a terminal shows how far it
    is."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("rows", total=len(asked.rows))
        for start in range(0, len(asked.rows), at_a_time):
            chosen = slice(start, start + at_a_time)
            numbers = [row + 1 for row in asked.rows[chosen]]
            yield from zip(numbers, answer(chosen), strict=True)
            progress.advance(bar, len(numbers))


def answered_lines(
    at_a_time: int, answer: Callable[[list[str]], Sequence[T]]
) -> Iterator[tuple[int, T]]:
    """The number of each line of standard input, from 1, with what `answer` gives for it, as they
    come; empty lines get no answer."""
    lines = enumerate((line.rstrip("\r\n") for line in sys.stdin), start=1)
    while batch := list(islice(lines, at_a_time)):
        numbered = [(number, text) for number, text in batch if text.strip()]
        answers = answer([text for _, text in numbered])
        yield from zip([number for number, _ in numbered], answers, strict=True)
        sys.stdout.flush()
