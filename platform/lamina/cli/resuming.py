"""`lamina resume RUN`: what a command left unfinished in its output folder goes on."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from lamina.config import Job
from lamina.config.reading import is_job_file
from lamina.files import write_json
from lamina.registry import InputError
from lamina.reporting.results import no_results_in
from lamina.streams.names import counted

RECORD = "job.json"
FORMAT = 1
"""Of the record: one more whenever its keys or their meaning change."""
Command = Literal["run", "sweep", "federate"]


def record_job(
    job: Job, command: Command, overrides: Sequence[str], in_process: bool = False
) -> None:
    """Leave in the output folder what it takes to go on: the job, and where its paths are from."""
    job.output_dir.mkdir(parents=True, exist_ok=True)
    record = {
        "format": FORMAT,
        "command": command,
        "in_process": in_process,
        "folder": os.getcwd(),
        "overrides": [each for each in overrides if not is_job_file(each)],
        "job": job.mapping,
    }
    write_json(job.output_dir / RECORD, record)


def resume_run(run: Path) -> None:
    """Go on with what was begun in an output folder. Raises InputError where that is not known."""
    record = _read(run)
    mapping = {**record["job"], "output_dir": str(run.resolve())}
    if Path(record["folder"]).is_dir():
        # Relative paths of the job mean what they meant.
        os.chdir(record["folder"])
    match record["command"]:
        case "sweep":
            from lamina.cli.sweep import sweep_job

            sweep_job(mapping, ()).raise_for_failures()
        case "federate":
            from lamina.cli.federate import federate_job

            federate_job(mapping, (), record["in_process"])
        case _:
            from lamina.cli.run import run_job

            run_job(mapping, [each for each in record["overrides"] if "output_dir" not in each])


def say_what_is_there(console: Console, output_dir: Path) -> None:
    """In a line, how far the trials of an earlier sweep in the folder are. Raises InputError where
    its ledger is damaged."""
    from lamina.orchestration.sweep.terminal import read_ledger

    rows = read_ledger(output_dir) or []
    if rows:
        found = Counter(_how_far(row) for row in rows)
        said = ", ".join(f"{number} {how}" for how, number in sorted(found.items()))
        console.print(
            f"found {counted(len(rows), 'trial')} in {output_dir}: {said}",
            markup=False,
            soft_wrap=True,
        )


def _how_far(row: dict[str, Any]) -> str:
    if row["status"] in ("finished", "failed"):
        return str(row["status"])
    return "halfway" if row["reports"] else "not begun"


def _read(run: Path) -> dict[str, Any]:
    path = run / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise no_results_in(run) from None
    except (OSError, ValueError) as error:
        raise InputError(f"RUN: {str(path)!r} is damaged: {error}") from None
    known = {"format", "command", "in_process", "folder", "overrides", "job"}
    if not isinstance(record, dict) or record.get("format") != FORMAT or record.keys() != known:
        raise InputError(
            f"RUN: {str(path)!r} is no record of this version of Lamina (allowed: format {FORMAT})"
        )
    return record
