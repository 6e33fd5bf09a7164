"""One page for a browser: everything in one file, nothing from a network.

The tables are HTML that DataTables (through itables' bundle) makes sortable and filterable; the
pictures are Plotly figures, drawn by plotly.js. Both libraries are in the file. Without JavaScript
the tables are still there.
"""

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import product
from typing import Any

import jinja2
from itables.utils import read_package_file
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from lamina.evaluation.leaderboard import Row
from lamina.reporting import formatting
from lamina.reporting.figures.costs import SPENT, spent
from lamina.reporting.figures.curves import curves
from lamina.reporting.figures.drifts import drifts
from lamina.reporting.figures.effects import effect, varied
from lamina.reporting.figures.matrices import confusion, matrix
from lamina.reporting.figures.pareto import COSTS, pareto
from lamina.reporting.figures.style import Figure
from lamina.reporting.predictions import ClassReport, read_class_report
from lamina.reporting.results import SHOWN_PARTS, Board, TrialResult
from lamina.reporting.tables import Table, comparison_table, group_table, trial_table

_MOST_SPREADS = 10
"""Trials whose answers are shown by class, the best ones: with many classes each is large."""
_MOST_REFERENCES = 20
"""Settings that others can be held against: the best ones."""


@dataclass(frozen=True)
class Chooser:
    """A list to choose from beside a picture or table."""

    label: str
    options: Sequence[tuple[str, str]]
    """Values, each with its text."""


@dataclass(frozen=True)
class Chart:
    """A picture, one for every combination of what can be chosen."""

    key: str
    figures: Mapping[str, Figure]
    """By the chosen values, joined by `/`; by the empty text where nothing can be chosen."""
    choosers: Sequence[Chooser]


@dataclass(frozen=True)
class Spread:
    """A trial's answers by class."""

    trial: TrialResult
    report: ClassReport

    @property
    def lines(self) -> Iterator[tuple[str, int, float]]:
        """Each class with its rows and accuracy."""
        numbers = self.report.rows.tolist(), self.report.accuracy.tolist()
        yield from zip(self.report.classes, *numbers, strict=True)


@dataclass(frozen=True)
class Section:
    """A board on the page. Empty parts are left out."""

    key: str
    board: Board
    trials: Table
    groups: Table | None
    comparisons: Sequence[tuple[str, Table]]
    """Each reference with the table of what is held against it."""
    curves: Chart
    matrices: Chart | None
    pareto: Chart | None
    drift: Chart | None
    effects: Chart | None
    spent: Chart
    spreads: Sequence[Spread]
    confusions: Chart | None

    @property
    def charts(self) -> list[Chart]:
        """All pictures that there are."""
        every = (
            self.curves,
            self.matrices,
            self.pareto,
            self.drift,
            self.effects,
            self.spent,
            self.confusions,
        )
        return [chart for chart in every if chart is not None]

    @property
    def unfinished(self) -> list[TrialResult]:
        """What was stopped or failed."""
        return [trial for trial in self.board.trials if trial.row["status"] != "finished"]

    @property
    def notes(self) -> list[str]:
        """What looked like a mistake in the data, each once."""
        lines = [note["line"] for row in self.board.rows for note in row.get("notes", ())]
        return list(dict.fromkeys(lines))

    @property
    def total_seconds(self) -> float:
        """Of all trials, on one device."""
        return sum(row["seconds"] or 0.0 for row in self.board.rows)


def as_page(boards: Sequence[Board]) -> str:
    """The whole page as HTML."""
    sections = [_section(f"b{number}", board) for number, board in enumerate(boards)]
    drawn = {
        "/".join(filter(None, (chart.key, choice))): figure
        for section in sections
        for chart in section.charts
        for choice, figure in chart.figures.items()
    }
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lamina.reporting", "page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals["zip"] = zip
    return environment.get_template("page.html").render(
        sections=sections,
        formatting=formatting,
        figures=_in_script(drawn),
        style=Markup(_ours("page.css")),
        script=Markup(_ours("page.js")),
        **_libraries(),
    )


def _section(key: str, board: Board) -> Section:
    spreads = [
        Spread(trial, read_class_report(trial.predictions))
        for trial in board.trials
        if trial.predictions is not None
    ][:_MOST_SPREADS]
    parts = Chooser("part", [(part, part) for part in SHOWN_PARTS])
    return Section(
        key=key,
        board=board,
        trials=trial_table(board.rows),
        groups=group_table(board.groups) if board.groups else None,
        comparisons=[
            (formatting.name_of(group), table)
            for group in board.groups[:_MOST_REFERENCES]
            if (table := comparison_table(group, board.groups)).rows
        ],
        curves=Chart(f"{key}-curves", {part: curves(board, part) for part in SHOWN_PARTS}, [parts]),
        matrices=_matrices(f"{key}-matrix", board, parts),
        pareto=_pareto(f"{key}-pareto", board),
        drift=_drift(f"{key}-drift", board),
        effects=_effects(f"{key}-settings", board, parts),
        spent=_spent(f"{key}-spent", board),
        spreads=spreads,
        confusions=_confusions(f"{key}-classes", spreads),
    )


def _matrices(key: str, board: Board, parts: Chooser) -> Chart | None:
    trials = [trial for trial in board.trials if trial.matrices]
    if not trials:
        return None
    drawn = {
        f"{trial.row['trial']}/{part}": matrix(trial, part)
        for trial, part in product(trials, SHOWN_PARTS)
        if part in trial.matrices
    }
    return Chart(key, drawn, [_chooser_of(trials), parts])


def _chooser_of(trials: Sequence[TrialResult]) -> Chooser:
    return Chooser("trial", [(trial.row["trial"], _label(trial.row)) for trial in trials])


def _label(row: Row) -> str:
    return f"{row['rank']}  {row['name']}, {formatting.number(row['average_accuracy'])}"


def _pareto(key: str, board: Board) -> Chart | None:
    drawn = {cost: figure for cost in COSTS if (figure := pareto(board, cost))}
    costs = [(cost, COSTS[cost][0]) for cost in drawn]
    return Chart(key, drawn, [Chooser("cost", costs)]) if drawn else None


def _drift(key: str, board: Board) -> Chart | None:
    figure = drifts(board)
    return Chart(key, {"": figure}, []) if figure else None


def _effects(key: str, board: Board, parts: Chooser) -> Chart | None:
    keys = varied(board)
    drawn = {
        f"{setting}/{part}": effect(board, setting, part)
        for setting, part in product(keys, SHOWN_PARTS)
    }
    settings = Chooser("setting", [(setting, setting) for setting in keys])
    return Chart(key, drawn, [settings, parts]) if drawn else None


def _spent(key: str, board: Board) -> Chart:
    drawn = {cost: spent(board, cost) for cost in SPENT}
    return Chart(key, drawn, [Chooser("cost", [(cost, cost) for cost in drawn])])


def _confusions(key: str, spreads: Sequence[Spread]) -> Chart | None:
    drawn = {each.trial.row["trial"]: confusion(each.report) for each in spreads}
    chooser = _chooser_of([each.trial for each in spreads])
    return Chart(key, drawn, [chooser]) if drawn else None


def _in_script(document: Any) -> Markup:
    """JSON that a script element can hold: `<` would end it or open a comment."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def _ours(name: str) -> str:
    return (files("lamina.reporting") / "page" / name).read_text(encoding="utf-8")


@cache
def _libraries() -> dict[str, Markup]:
    """plotly.js as a script; DataTables, a module that the page imports, as Base64."""
    module = read_package_file("html", "dt_bundle.js")
    return {
        "plotly": Markup(get_plotlyjs()),
        "datatables": Markup(b64encode(module.encode()).decode()),
        "datatables_style": Markup(read_package_file("html", "dt_bundle.css")),
    }
