"""`lamina predict`: what a bundle says of the rows of a file."""

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import torch
from rich.console import Console
from rich.table import Table

from lamina.bundles import Bundle, Prediction, Predictor, find_bundle, load_predictor, open_bundle
from lamina.bundles.asking import asked_rows
from lamina.cli.answering import answered_lines, answered_rows
from lamina.cli.predict_texts import say_lines, say_rows, says_texts, show_matches
from lamina.evaluation.classification import class_accuracy, confusion_matrix, macro_f1
from lamina.files import replacing
from lamina.registry import InputError
from lamina.streams.base import Asked
from lamina.streams.names import counted

Form = Literal["csv", "jsonl"]

STDIN = "-"
_ROWS_AT_A_TIME = 1024
_LINES_AT_A_TIME = 64
"""Of standard input, where whoever writes them may wait for the answers."""
_MOST_SHOWN = 20
"""Classes of a confusion matrix that a terminal has room for."""


def predict_file(
    path: Path,
    file: str,
    words: Sequence[str],
    *,
    trial: str | None,
    task: str | None,
    top_k: int,
    output: Path | None,
    form: Form | None,
    max_new_tokens: int | None,
    explain: bool,
) -> None:
    """Write a line for each row that is not empty: its number from 1, the label, its score and, if
    the strategy routes, the task; with `top_k` the next best labels too. Of a language model: the
    text that it generates, and whether it came to its end.

    Raises InputError where bundle or rows cannot be read, or `explain` lacks labels.
    """
    bundle = open_bundle(find_bundle(path, trial))
    says = bundle.facts.answers == "tokens"
    if says and top_k > 1:
        raise InputError(f"--top-k: {top_k} changes nothing, as answers are texts (allowed: 1)")
    if not says and max_new_tokens is not None:
        raise InputError(
            f"--max-new-tokens: {max_new_tokens} changes nothing, as answers are classes "
            "(allowed: leave it out)"
        )
    # What is asked is read before the backbone, which takes seconds.
    asked = None if file == STDIN else asked_rows(bundle, file, words)
    if explain and (asked is None or asked.labels is None):
        what = "answers (stream.answer_column" if says else "labels (stream.label_column"
        raise InputError(f"--explain: the rows have no {what} says which)")
    if file == STDIN and words:
        raise InputError(f"{words[0]}: lines of standard input are texts (allowed: nothing)")
    predictor = load_predictor(bundle)
    predictor.task_named(task)
    console = Console(stderr=True, highlight=False)
    form = form or _form_of(output)
    if says:
        with _opened(output) as opened:
            say = says_texts(opened, form, predictor.strategy.routes)
            if asked is None:
                say_lines(predictor, say, task, max_new_tokens)
                return
            _say_what_is_left_out(asked, console)
            said = say_rows(predictor, asked, say, task, max_new_tokens, console)
        if explain:
            show_matches(console, predictor, asked, said)
        return
    found: list[str] = []
    with _opened(output) as opened:
        write = _lines(opened, form, top_k, predictor.strategy.routes)
        if asked is None:
            _answer_lines(predictor, write, task, top_k)
        else:
            _say_what_is_left_out(asked, console)
            found = _answer_rows(predictor, asked, write, task, top_k, console)
    if explain and asked is not None and asked.labels is not None:
        show_quality(console, bundle, asked.labels, found)


class _Write(Protocol):
    def __call__(self, row: int, prediction: Prediction) -> None: ...


def _answer_rows(
    predictor: Predictor,
    asked: Asked,
    write: _Write,
    task: str | None,
    top_k: int,
    console: Console,
) -> list[str]:
    """Returns the label of each row."""
    found: list[str] = []
    for number, prediction in answered_rows(
        asked,
        _ROWS_AT_A_TIME,
        lambda chosen: predictor.predict(asked.values[chosen], task, top_k),
        console,
    ):
        write(number, prediction)
        found.append(prediction.label)
    return found


def _answer_lines(predictor: Predictor, write: _Write, task: str | None, top_k: int) -> None:
    """Lines of standard input, each a text, as they come; empty ones get no answer."""
    for number, prediction in answered_lines(
        _LINES_AT_A_TIME, lambda texts: predictor.predict(texts, task, top_k)
    ):
        write(number, prediction)


def _say_what_is_left_out(asked: Asked, console: Console) -> None:
    if missing := asked.total - len(asked.rows):
        are = "is" if missing == 1 else "are"
        rows = counted(asked.total, "row")
        console.print(f"{missing:,} of {rows} {are} empty and left out")


def _form_of(output: Path | None) -> Form:
    return "jsonl" if output is not None and output.suffix in (".json", ".jsonl") else "csv"


@contextmanager
def _opened(output: Path | None) -> Iterator[IO[str]]:
    """Where predictions go: a file, which is there whole afterwards or not at all, or standard
    output."""
    if output is None:
        yield sys.stdout
        return
    with (
        replacing(output) as unfinished,
        unfinished.open("w", encoding="utf-8", newline="") as file,
    ):
        yield file


def _lines(file: IO[str], form: Form, top_k: int, routes: bool) -> _Write:
    if form == "jsonl":

        def write_json(row: int, prediction: Prediction) -> None:
            record: dict[str, Any] = {
                "row": row,
                "label": prediction.label,
                "score": round(prediction.score, 6),
            }
            if routes:
                record["task"] = prediction.task
            if top_k > 1:
                record["top"] = [
                    {"label": label, "score": round(score, 6)} for label, score in prediction.top
                ]
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

        return write_json

    writer = csv.writer(file, lineterminator="\n")
    columns = [name for k in range(2, top_k + 1) for name in (f"label_{k}", f"score_{k}")]
    writer.writerow(["row", "label", "score", *(["task"] if routes else []), *columns])

    def write_csv(row: int, prediction: Prediction) -> None:
        task = [prediction.task] if routes else []
        others = [cell for label, score in prediction.top[1:] for cell in (label, f"{score:.6f}")]
        writer.writerow([row, prediction.label, f"{prediction.score:.6f}", *task, *others])

    return write_csv


def show_quality(
    console: Console, bundle: Bundle, labels: Sequence[str | None], found: Sequence[str]
) -> None:
    """Accuracy of each class, macro F1 and the confusion matrix of rows whose label is known to the
    bundle; how many others there are."""
    names = bundle.facts.class_names
    number = {name: index for index, name in enumerate(names)}
    pairs = [
        (number[label], number[answer])
        for label, answer in zip(labels, found, strict=True)
        if label in number
    ]
    others = [label for label in labels if label not in number]
    if others:
        few = ", ".join(repr(label) for label in list(dict.fromkeys(others))[:5])
        console.print(
            f"{len(others):,} of {len(labels):,} rows have no class that the bundle knows ({few}) "
            "and are not counted",
            markup=False,
        )
    if not pairs:
        return
    true, predicted = torch.tensor(pairs).T
    confusion = confusion_matrix(true, predicted, len(names))
    right = int(confusion.diagonal().sum()) / len(pairs)
    console.print(f"\naccuracy {right:.3f}, macro F1 {macro_f1(confusion):.3f} of {len(pairs):,}")
    console.print(_classes(confusion, names))
    if len(names) <= _MOST_SHOWN:
        console.print(_confusions(confusion, names))


def _classes(confusion: torch.Tensor, names: Sequence[str]) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False)
    table.add_column("class")
    for heading in ("rows", "accuracy"):
        table.add_column(heading, justify="right")
    table.add_column("most often taken for")
    counts, shares = confusion.sum(dim=1).tolist(), class_accuracy(confusion).tolist()
    wrong = confusion.clone().fill_diagonal_(0)
    for index, name in enumerate(names):
        if counts[index]:
            most = int(wrong[index].argmax())
            mistaken = f"{names[most]} ({int(wrong[index, most])})" if wrong[index, most] else ""
            table.add_row(name, f"{counts[index]:,}", f"{shares[index]:.3f}", mistaken)
    return table


def _confusions(confusion: torch.Tensor, names: Sequence[str]) -> Table:
    """True classes down, answers across."""
    table = Table(header_style="bold", box=None, pad_edge=False, title="answers across")
    table.add_column("")
    for index in range(len(names)):
        table.add_column(str(index + 1), justify="right")
    for index, name in enumerate(names):
        cells = (str(count) if count else "." for count in confusion[index].tolist())
        table.add_row(f"{index + 1} {name}", *cells)
    return table
