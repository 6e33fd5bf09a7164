"""What a job left behind, shown: the leaderboard, and where everything is."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, TextIO

import click
import rich.table
import torch
from rich.console import Console
from rich.text import Text

from lamina.backbones.cpu import is_slow_at
from lamina.cli.console import LOG_WIDTH, stdout
from lamina.config import Job
from lamina.core import Stream
from lamina.evaluation.leaderboard import Row
from lamina.evaluation.seeds import groups_over_seeds
from lamina.folders import ERROR, EVENTS, LEADERBOARD, PAGE, RUNS, TRIALS
from lamina.registry import InputError
from lamina.reporting import formatting
from lamina.reporting.formats import as_csv, as_json, as_latex, as_markdown
from lamina.reporting.results import Board, output_dir_of, read_boards, title_of, words_of
from lamina.reporting.tables import Table, group_table, trial_table
from lamina.tracking.mlflow_store import ui_command, ui_page


def notes_in_record(streams: Iterable[Stream[Any]]) -> list[Mapping[str, Any]]:
    """What the records of streams say of their rows, each once: a line for people, and counts."""
    notes = {str(note["line"]): note for each in streams for note in each.record.get("notes", ())}
    return list(notes.values())


def show_notes(console: Console, streams: Iterable[Stream[Any]]) -> None:
    """What a person should know of the rows of streams, a line each."""
    for note in notes_in_record(streams):
        console.print(f"stream: {note['line']}", markup=False, soft_wrap=True)


def show_slow(console: Console, jobs: Iterable[Job]) -> None:
    """A line for each kind of number that jobs ask for and that this machine, where it would
    compute them, is known to be slow at."""
    asked = {
        each.backbone.dtype
        for each in jobs
        if each.hosts.device == "cpu" or not torch.cuda.is_available()
    }
    for dtype in sorted(filter(is_slow_at, asked)):
        console.print(
            f"backbone.dtype: this CPU computes {dtype} more slowly than float32 (`lamina doctor` "
            "says more)",
            soft_wrap=True,
        )


_WHERE = 2
"""So many lines of a traceback are shown before its last: the file and the line of code."""
_SHOWN = (
    "rank",
    "strategy",
    "adapter",
    "settings",
    "scenario",
    "seeds",
    "average_accuracy",
    "interval",
    "forgetting",
)
"""The columns of a terminal, narrow enough for 80 columns; the page has all."""
_OF_TRIALS = ("validation_average_accuracy", "trainable_parameters", "seconds", "status")
"""What single trials have room for beside them."""


def _in_terminal(table: Table) -> rich.table.Table:
    """A table for a person: one space between columns; a name is never cut, the settings may take
    several lines."""
    shown = rich.table.Table(header_style="bold", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for column in table.columns:
        justify: Literal["right", "left"] = "right" if column.is_number else "left"
        if column.key == "settings":
            shown.add_column(column.heading, min_width=len(column.heading), overflow="fold")
        else:
            shown.add_column(column.heading, justify=justify, no_wrap=True)
    for place, row in enumerate(table.rows):
        shown.add_row(*(Text(cell.text) for cell in row), style="bold" if place == 0 else None)
    return shown


def show_leaderboard(
    console: Console, rows: Sequence[Row], name: str, trials: Path | None = None
) -> None:
    """The ranked trials, why some failed, and the settings over their seeds, if these vary.
    `trials` is where each has its folder."""
    console.print()
    console.print(title_of(rows, name), markup=False, soft_wrap=True)
    console.print(_in_terminal(trial_table(rows).only(*_SHOWN, *_OF_TRIALS)))
    failed: dict[str, list[Row]] = {}
    for row in rows:
        if row["error"]:
            failed.setdefault(formatting.reason(str(row["error"])), []).append(row)
    for reason, those in failed.items():
        names = ", ".join(row["name"] for row in those)
        console.print(Text(f"{names} failed: {reason}", style="red"), soft_wrap=True)
        # Of several that failed alike, one shows where.
        *before, _ = str(those[0]["error"]).strip().splitlines()
        for line in before[-_WHERE:]:
            console.print(Text(f"  {line}"), soft_wrap=True)
        whole = None if trials is None else trials / those[0]["trial"] / ERROR
        if whole is not None and whole.is_file():
            console.print(Text(f"  all of it: {whole}"), soft_wrap=True)
    if groups := groups_over_seeds(rows):
        console.print(
            "\nOver seeds: mean ± standard deviation, and a 95 % interval of the mean "
            f"{words_of(rows[0])} (Student's t); ranked by the mean of {rows[0]['metric']}.",
            soft_wrap=True,
        )
        console.print(_in_terminal(group_table(groups).only(*_SHOWN)))


def show_files(console: Console, output_dir: Path) -> None:
    """Where everything in an output folder is."""
    console.print()
    files = [
        (PAGE, "leaderboard, curves, matrices, costs: a page for a browser, in one file"),
        (LEADERBOARD, "all columns of the leaderboard"),
        (TRIALS, "accuracy matrices and bundles of each trial of the sweep"),
        (RUNS, "accuracy matrix and bundle of each lone run (`lamina run`)"),
        (EVENTS, "everything that was reported, a line each"),
    ]
    for name, what in files:
        if (output_dir / name).exists():
            console.print(f"{output_dir / name}: {what}", soft_wrap=True)


def show_mlflow(
    console: Console, output_dir: Path, mlflow_uri: str | None, experiment: str | None
) -> None:
    """The one command that opens the MLflow UI at an experiment, if MLflow was written."""
    store = mlflow_uri or (output_dir if (output_dir / "mlflow.db").is_file() else None)
    if store is not None:
        # The command is the last line, where it is easy to copy.
        page = ui_page(store, experiment)
        console.print(f"\nMLflow shows the runs at {page} after", soft_wrap=True)
        console.print(ui_command(store, page), soft_wrap=True)


Format = Literal["html", "table", "csv", "latex", "markdown", "json"]
_BY_SUFFIX: dict[str, Format] = {
    ".html": "html",
    ".htm": "html",
    ".txt": "table",
    ".csv": "csv",
    ".tex": "latex",
    ".md": "markdown",
    ".json": "json",
}


def report(run: Path, wanted: Format | None, output: Path | None) -> None:
    """Show or write what is in an output folder, as `lamina report` says it.

    Without a format or a file: the table, and the page in the folder. A file's name says the
    format where nothing else does. Raises InputError when there is nothing to show.
    """
    if output is not None and wanted is None:
        wanted = _format_of(output)
    boards = read_boards(run)
    if wanted is None:
        _show(stdout(), boards, output_dir_of(run), write_page=True)
    elif wanted == "html":
        page = output or output_dir_of(run) / PAGE
        _write_page(page, boards)
        click.echo(page)
    elif wanted == "table":
        with nullcontext() if output is None else _opened(output) as file:
            console = stdout() if file is None else Console(file=file, width=LOG_WIDTH)
            _show(console, boards, output_dir_of(run), write_page=False)
    else:
        text = {
            "csv": as_csv,
            "json": as_json,
            "latex": as_latex,
            "markdown": as_markdown,
        }[wanted](boards)
        if output is None:
            click.echo(text, nl=False)
        else:
            _write(output, text)


def _format_of(output: Path) -> Format:
    try:
        return _BY_SUFFIX[output.suffix.lower()]
    except KeyError:
        raise InputError(
            f"--output: {str(output)!r} does not end as a format does (allowed: "
            f"{', '.join(_BY_SUFFIX)}; or say --format)"
        ) from None


def _opened(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise InputError(f"--output: {str(path)!r} cannot be written ({error.strerror})") from error


def _write(path: Path, text: str) -> None:
    with _opened(path) as file:
        file.write(text)


def _write_page(path: Path, boards: Sequence[Board]) -> None:
    # Only who wants the page waits for the libraries that are in it; sweeps do not.
    from lamina.reporting.page import as_page

    _write(path, as_page(boards))


def _show(console: Console, boards: Sequence[Board], output_dir: Path, write_page: bool) -> None:
    for board in boards:
        show_leaderboard(console, board.rows, board.name, output_dir / TRIALS)
    if write_page:
        try:
            _write_page(output_dir / PAGE, boards)
        except InputError as error:
            console.print(f"\nno page: {error}", markup=False, soft_wrap=True)
    show_files(console, output_dir)
    first = boards[0].rows[0]
    show_mlflow(console, output_dir, first["mlflow_uri"], first.get("experiment"))
