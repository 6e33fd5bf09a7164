"""The leaderboard as a file for other programs and for papers: CSV, JSON, Markdown, LaTeX."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from io import StringIO
from typing import Any

from lamina.evaluation.leaderboard import written
from lamina.evaluation.measures import named
from lamina.evaluation.seeds import LEVEL, Group
from lamina.reporting.results import Board
from lamina.reporting.tables import (
    NUMBERS,
    Cell,
    Column,
    Table,
    against,
    group_table,
    trial_table,
)

_PAPER = (
    "strategy",
    "adapter",
    "settings",
    "scenario",
    "seeds",
    "average_accuracy",
    "average_incremental_accuracy",
    "forgetting",
    "trainable_parameters",
    "stored_parameters",
    "status",
)
"""What a paper's table has."""
_NOT_IN_CSV = ("settings", "error", "notes", "mlflow_uri")
_DIGITS = 6
"""Of a number in CSV: more than any of them is worth."""


def as_csv(boards: Sequence[Board]) -> str:
    """A line for each trial and a column for each of the leaderboard's, settings by dotted key."""
    rows = [written(row) for board in boards for row in board.rows]
    varied = list(dict.fromkeys(key for row in rows for key in row["settings"]))
    plain = [key for key in rows[0] if key not in _NOT_IN_CSV]
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*plain, *varied])
    for row in rows:
        values = [*(row.get(key) for key in plain), *(row["settings"].get(key) for key in varied)]
        writer.writerow([_plain(value) for value in values])
    return text.getvalue()


def _plain(value: Any) -> Any:
    return f"{value:.{_DIGITS}g}" if isinstance(value, float) else value


def as_json(boards: Sequence[Board]) -> str:
    """Everything, unrounded: trials with their matrices, groups over seeds, each pair compared."""
    return json.dumps([_document(board) for board in boards], indent=1) + "\n"


def _document(board: Board) -> dict[str, Any]:
    return {
        "name": board.name,
        "title": board.title,
        "trials": [
            {
                **written(trial.row),
                "tasks": trial.tasks,
                named("accuracy_matrix", board.measure): trial.matrices,
            }
            for trial in board.trials
        ],
        "level_of_intervals": LEVEL,
        "groups": [_group(group, board.measure) for group in board.groups],
        "comparisons": [
            {
                "reference": _identity(group),
                "setting": _identity(pair.other),
                **asdict(pair.found),
                "p_adjusted": pair.p_adjusted,
            }
            for group in board.groups
            for pair in against(group, board.groups)
        ],
    }


def _identity(group: Group) -> dict[str, Any]:
    return {
        "strategy": group.strategy,
        "adapter": group.adapter,
        "scenario": group.scenario,
        "settings": dict(group.settings),
    }


def _group(group: Group, measure: str) -> dict[str, Any]:
    means = {named(key, measure): group.estimate(key) for key in ("score", *NUMBERS)}
    return {
        **_identity(group),
        "trials": [row["trial"] for row in group.rows],
        "estimates": {key: asdict(mean) for key, mean in means.items() if mean},
    }


def as_markdown(boards: Sequence[Board]) -> str:
    """A table for each board, the best in bold: settings over seeds where there are, or trials."""
    return "\n".join(f"{board.title}\n\n{_markdown(paper_table(board))}" for board in boards)


def paper_table(board: Board) -> Table:
    """The columns of a paper: of groups over seeds where there are, of trials otherwise."""
    table = group_table(board.groups) if board.groups else trial_table(board.rows)
    return table.only(*_PAPER)


def _markdown(table: Table) -> str:
    def line(texts: Sequence[str]) -> str:
        return f"| {' | '.join(texts)} |\n"

    def text(cell: Cell) -> str:
        said = _one_line(cell.text).replace("|", r"\|")
        return f"**{said}**" if cell.is_best else said

    return "".join(
        [
            line([column.heading for column in table.columns]),
            line(["---:" if column.is_number else "---" for column in table.columns]),
            *(line([text(cell) for cell in row]) for row in table.rows),
        ]
    )


def as_latex(boards: Sequence[Board]) -> str:
    """The same for a paper, with booktabs' rules."""
    return "\n".join(_latex(board) for board in boards)


def _latex(board: Board) -> str:
    table = paper_table(board)
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{_escaped(_caption(board))}}}",
        rf"  \begin{{tabular}}{{{''.join(map(_alignment, table.columns))}}}",
        r"    \toprule",
        _latex_line([_escaped(_heading(column)) for column in table.columns]),
        r"    \midrule",
        *(_latex_line(list(map(_latex_cell, table.columns, row))) for row in table.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _caption(board: Board) -> str:
    over = " Mean ± standard deviation over seeds." if board.groups else ""
    return board.title + over


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _heading(column: Column) -> str:
    return column.heading if len(column.heading) == 1 else column.heading.capitalize()


def _alignment(column: Column) -> str:
    return "r" if column.is_number else "l"


def _latex_line(cells: Sequence[str]) -> str:
    return f"    {' & '.join(cells)} \\\\"


def _latex_cell(column: Column, cell: Cell) -> str:
    text = _escaped(_one_line(cell.text))
    if column.is_number:
        text = text.replace("-", "$-$") if cell.value is not None else "--"
    return rf"\textbf{{{text}}}" if cell.is_best else text


_LATEX = {
    **{each: rf"\{each}" for each in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "±": r"$\pm$",
}


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
