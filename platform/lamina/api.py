"""Lamina from Python: what the commands do, with results as pandas data frames."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.bundles import BEST, Predictor, find_bundle, load_predictor, open_bundle
from lamina.cli.run import run_job
from lamina.cli.sweep import sweep_job
from lamina.config.words import JobSource
from lamina.core import Part
from lamina.evaluation.leaderboard import Row, written
from lamina.reporting.results import results_in

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Results:
    """What the trials of a job gave, the best first."""

    output_dir: Path
    """The job's folder."""
    rows: list[Row] = field(repr=False)
    """As in leaderboard.json."""

    def frame(self) -> "DataFrame":
        """A line for each trial; what tells it from others is in columns of its own, by dotted
        keys of the job."""
        from pandas import DataFrame

        flat = [
            {**{key: each for key, each in row.items() if key != "settings"}, **row["settings"]}
            for row in self.rows
        ]
        return DataFrame(flat).set_index("rank")

    def matrix(self, trial: str = BEST, part: Part = "test") -> "DataFrame":
        """R of a trial: its measure on each task (columns) after each task (rows). Raises
        InputError where there is no such trial, or it has not finished."""
        from pandas import DataFrame

        facts = open_bundle(find_bundle(self.output_dir, trial)).facts
        names = [each.name for each in facts.tasks]
        rows = facts.validation if part == "validation" else facts.test
        return DataFrame([list(row) for row in rows], index=names, columns=names, dtype=float)

    def load(self, trial: str = BEST, device: str | None = None) -> Predictor:
        """A trial that answers. Raises InputError where there is none of that name."""
        return load(self.output_dir, trial, device)


def run(job: JobSource, *overrides: str) -> Results:
    """Train the one trial that a job says, in this process: `lamina run`.

    `job` is a file, or the mapping that one would hold; `overrides` are `KEY=VALUE` words, or files
    that are laid over it. Raises InputError (its `problems` a line each) for what is wrong with it.
    """
    folder, row = run_job(job, overrides)
    return Results(folder, [written(row)])


def sweep(job: JobSource, *overrides: str) -> Results:
    """Train every trial of a job's sweep on Ray, and rank them: `lamina sweep`. Arguments and
    errors as for `run`; trials that fail are in the results with their `error`."""
    swept = sweep_job(job, overrides)
    return Results(swept.output_dir, [written(row) for row in swept.rows])


def results(output_dir: Path | str) -> Results:
    """What a job left behind. Raises InputError where there is nothing."""
    swept, lone = results_in(Path(output_dir))
    return Results(Path(output_dir), [written(row) for row in swept or lone])


def load(bundle: Path | str, trial: str | None = None, device: str | None = None) -> Predictor:
    """A bundle, ready to answer: a bundle's folder, or a job's output folder with a trial (the best
    one by default). On a GPU where there is one, unless `device` says otherwise.

    Raises InputError where there is none, it is damaged, or its backbone is not the one that is
    here.
    """
    return load_predictor(open_bundle(find_bundle(Path(bundle), trial)), device)
