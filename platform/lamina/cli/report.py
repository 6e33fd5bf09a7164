"""What a job left behind, shown: the leaderboard, and where everything is."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lamina.core import Stream
from lamina.evaluation.leaderboard import Row
from lamina.registry import InputError
from lamina.tracking.mlflow_store import ui_command, ui_page

LEADERBOARD = "leaderboard.json"
RESULT = "result.json"
RUNS = "run"
"""The folder of lone runs below a job's output folder."""
TRIALS = "trials"
"""The folder of a sweep's trials there."""
_LOG_WIDTH = 160
"""Columns of a table in a log, which nobody resizes."""


def stdout() -> Console:
    """Standard output: a terminal's own width, or wide enough for a table where there is none."""
    console = Console(highlight=False, soft_wrap=False)
    return console if console.is_terminal else Console(highlight=False, width=_LOG_WIDTH)


def notes_in_record(streams: Iterable[Stream[Any]]) -> list[Mapping[str, Any]]:
    """What the records of streams say of their rows, each once: a line for people, and counts."""
    notes = {str(note["line"]): note for each in streams for note in each.record.get("notes", ())}
    return list(notes.values())


def show_notes(console: Console, streams: Iterable[Stream[Any]]) -> None:
    """What a person should know of the rows of streams, a line each."""
    for note in notes_in_record(streams):
        console.print(f"stream: {note['line']}", markup=False, soft_wrap=True)


def write_leaderboard(rows: Sequence[Row], output_dir: Path) -> Path:
    """`rows` as a JSON list in the output folder."""
    output_dir.mkdir(parents=True, exist_ok=True)
    path = output_dir / LEADERBOARD
    path.write_text(json.dumps(list(rows), indent=1) + "\n", encoding="utf-8")
    return path


def _table(rows: Sequence[Row]) -> Table:
    """The leaderboard for a person, narrow enough for 80 columns."""
    # One space between columns; a name is never cut, the settings may take several lines.
    table = Table(header_style="bold", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    several_scenarios = len({row["scenario"] for row in rows}) > 1
    all_finished = all(row["status"] == "finished" for row in rows)
    columns: dict[str, tuple[bool, Callable[[Row], str]]] = {
        "#": (True, lambda row: str(row["rank"])),
        "strategy": (False, lambda row: row["strategy"]),
        "adapter": (False, lambda row: row["adapter"] or "-"),
        "settings": (False, lambda row: _settings(row["settings"])),
        **({"scenario": (False, lambda row: row["scenario"])} if several_scenarios else {}),
        "accuracy": (True, lambda row: _number(row["average_accuracy"])),
        "forgetting": (True, lambda row: _number(row["forgetting"])),
        "validation": (True, lambda row: _number(row["validation_average_accuracy"])),
        "trained": (True, lambda row: _count(row["trainable_parameters"])),
        "seconds": (True, lambda row: _seconds(row["seconds"])),
        **({} if all_finished else {"": (False, _status)}),
    }
    for heading, (is_number, _) in columns.items():
        justify: Literal["right", "left"] = "right" if is_number else "left"
        if heading == "settings":
            table.add_column(heading, min_width=len(heading), overflow="fold")
        else:
            table.add_column(heading, justify=justify, no_wrap=True)
    for row in rows:
        cells = [cell(row) for _, cell in columns.values()]
        table.add_row(*cells, style="bold" if row["rank"] == 1 else None)
    return table


def _title(rows: Sequence[Row], name: str) -> str:
    """What the numbers of a leaderboard are of."""
    first = rows[0]
    scenarios = ", ".join(sorted({row["scenario"] for row in rows}))
    tasks = f", {first['num_tasks']} tasks" if first["num_tasks"] else ""
    return (
        f"{name}: {scenarios} on {first['stream']}{tasks}, {Path(first['backbone']).name}. "
        "Average accuracy and forgetting are of the test part, trained counts parameters; "
        f"ranked by {first['metric']}."
    )


def show_leaderboard(console: Console, rows: Sequence[Row], name: str) -> None:
    """The ranked table, and why trials failed."""
    console.print()
    console.print(_title(rows, name), soft_wrap=True)
    console.print(_table(rows))
    failed: dict[str, list[str]] = {}
    for row in rows:
        if row["error"]:
            failed.setdefault(str(row["error"]).strip().splitlines()[-1], []).append(row["name"])
    for reason, names in failed.items():
        console.print(Text(f"{', '.join(names)} failed: {reason}", style="red"), soft_wrap=True)


def show_places(console: Console, output_dir: Path) -> None:
    """Where everything in an output folder is."""
    console.print()
    places = [
        (LEADERBOARD, "all columns of the leaderboard"),
        (TRIALS, "accuracy matrices and bundles of each trial of the sweep"),
        (RUNS, "the same of each lone run (`lamina run`)"),
        ("events.jsonl", "everything that was reported, a line each"),
    ]
    for place, what in places:
        if (output_dir / place).exists():
            console.print(f"{output_dir / place}: {what}", soft_wrap=True)


def show_mlflow(console: Console, output_dir: Path, mlflow_uri: str | None) -> None:
    """The one command that opens the MLflow UI, if MLflow was written."""
    store = mlflow_uri or (output_dir if (output_dir / "mlflow.db").is_file() else None)
    if store is not None:
        # The command is the last line, where it is easy to copy.
        console.print(f"\nMLflow shows the runs at {ui_page(store)} after", soft_wrap=True)
        console.print(ui_command(store), soft_wrap=True)


def results_in(output_dir: Path) -> tuple[list[Row], list[Row]]:
    """The rows of a sweep's leaderboard, and of lone runs. Raises InputError when there is none of
    either."""
    rows = _read(output_dir / LEADERBOARD) if (output_dir / LEADERBOARD).is_file() else []
    lone = [_read(path) for path in sorted(output_dir.glob(f"{RUNS}/*/{RESULT}"))]
    if (output_dir / RESULT).is_file():
        lone.append(_read(output_dir / RESULT))
    if not rows and not lone:
        raise no_results_in(output_dir)
    return rows, lone


def show_report(run: Path) -> None:
    """Print again what is in an output folder. Raises InputError when nothing is."""
    output_dir = run.parent if run.is_file() else run
    rows, lone = results_in(output_dir)
    console = stdout()
    if rows:
        show_leaderboard(console, rows, output_dir.name)
    # What learned from other rows is not to be compared.
    by_data: dict[Any, list[Row]] = {}
    for row in lone:
        by_data.setdefault(row.get("data"), []).append(row)
    for data, those in by_data.items():
        name = f"{output_dir.name}, lone runs"
        show_leaderboard(console, those, name if len(by_data) == 1 else f"{name} on data {data}")
    show_places(console, output_dir)
    show_mlflow(console, output_dir, (rows or lone)[0]["mlflow_uri"])


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"RUN: {str(path)!r} is not JSON ({error})") from error


def no_results_in(run: Path) -> InputError:
    """That there is nothing to show in a folder, and which one may be meant."""
    folders = [str(path.parent) for path in Path("runs").glob(f"*/{LEADERBOARD}")]
    near = get_close_matches(str(run), folders, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    said = "holds no results" if run.exists() else "is not there"
    return InputError(
        f"RUN: {str(run)!r} {said}{hint} (allowed: the output_dir of a job that has run)"
    )


def _settings(settings: dict[str, Any]) -> str:
    """`lr 0.002, size 100`: the last part of each key is enough for a person."""
    shown = []
    for key, value in settings.items():
        last = key.rpartition(".")[2].replace("learning_rate", "lr")
        shown.append(f"{last} {value:.3g}" if isinstance(value, float) else f"{last} {value}")
    return ", ".join(shown)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _status(row: Row) -> str:
    if row["status"] == "finished":
        return ""
    if not row["tasks_done"]:
        return f"{row['status']} in its first task"
    return f"{row['status']} after {row['tasks_done']} of {row['num_tasks']} tasks"
