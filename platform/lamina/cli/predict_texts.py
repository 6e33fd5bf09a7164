"""`lamina predict` for language models: what is said to each row of a file."""

import csv
import json
from collections.abc import Callable, Sequence
from typing import IO, Any

import torch
from rich.console import Console
from rich.table import Table

from lamina.bundles import Generation, Predictor
from lamina.cli.answering import answered_lines, answered_rows
from lamina.evaluation.measures import measure_of, words_of
from lamina.evaluation.measures.base import OfPairs
from lamina.streams.base import Asked
from lamina.training.generate import TOGETHER

Write = Callable[[int, Generation], None]
_ALL = "all rows"


def says_texts(file: IO[str], form: str, routes: bool) -> Write:
    """What writes an answer with the number of its row: the text, whether it came to its end and,
    if the strategy routes, the task."""
    columns = ["row", "text", "is_whole", *(["task"] if routes else [])]

    def record_of(row: int, said: Generation) -> dict[str, Any]:
        record = {"row": row, "text": said.text, "is_whole": said.is_whole, "task": said.task}
        return {column: record[column] for column in columns}

    if form == "jsonl":
        return lambda row, said: _say(file, json.dumps(record_of(row, said), ensure_ascii=False))
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    return lambda row, said: writer.writerow(record_of(row, said))


def _say(file: IO[str], line: str) -> None:
    file.write(line + "\n")


def say_rows(
    predictor: Predictor,
    asked: Asked,
    write: Write,
    task: str | None,
    max_new_tokens: int | None,
    console: Console,
) -> list[Generation]:
    """Answer the rows of a file, and write each answer when it is there. `max_new_tokens` of None:
    the bundle's own setting."""

    def answer(chosen: slice) -> list[Generation]:
        prompts = [
            [{"role": role, "content": text} for role, text in turns]
            for turns in asked.values[chosen]
        ]
        domains = None if asked.groups is None else asked.groups[chosen]
        return predictor.generate(prompts, task, max_new_tokens, domains)

    found: list[Generation] = []
    for number, said in answered_rows(asked, TOGETHER, answer, console):
        write(number, said)
        found.append(said)
    return found


def say_lines(
    predictor: Predictor, write: Write, task: str | None, max_new_tokens: int | None
) -> None:
    """Answer lines of standard input, each a prompt; empty ones get no answer."""
    for number, said in answered_lines(
        TOGETHER, lambda texts: predictor.generate(texts, task, max_new_tokens)
    ):
        write(number, said)


def show_matches(
    console: Console, predictor: Predictor, asked: Asked, found: Sequence[Generation]
) -> None:
    """What the job's measure says of the answers, of each task where the rows say theirs, of those
    rows that have an answer; exact match where the measure needs more than what was said."""
    backbone, job = predictor.model.backbone, predictor.bundle.job
    measure = measure_of(job.training.measure, "tokens")
    pairs: dict[str, list[tuple[str, str]]] = {}
    right: dict[str, list[bool]] = {}
    labels = asked.labels or [None] * len(found)
    for place, (label, said) in enumerate(zip(labels, found, strict=True)):
        if label is None:
            continue
        # As the tokenizer writes it, which may change blanks or capitals.
        (wanted,) = backbone.inputs.texts_of(torch.tensor([backbone.inputs.tokens_of(label)]))
        group = None if asked.groups is None else asked.groups[place]
        for name in [_ALL] if group is None else [group, _ALL]:
            pairs.setdefault(name, []).append((said.text, wanted))
            right.setdefault(name, []).append(said.is_whole and said.text == wanted)
    table = Table(header_style="bold", box=None, pad_edge=False)
    table.add_column("task")
    of_texts = measure if isinstance(measure, OfPairs) else None
    for heading in ("rows", "exact match" if of_texts is None else words_of(of_texts.name)):
        table.add_column(heading, justify="right")
    for name in sorted(right, key=lambda each: each == _ALL):
        own = right[name]
        value = sum(own) / len(own) if of_texts is None else of_texts.of_pairs(pairs[name])
        table.add_row(name, f"{len(own):,}", f"{value:.3f}")
    console.print(table)
