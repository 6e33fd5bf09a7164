"""`lamina init`: a job for data of one's own, from a look at it."""

import re
from collections.abc import Sequence
from pathlib import Path

import click

from lamina.cli.check import check_jobs
from lamina.config.proposal import propose
from lamina.files import write_file
from lamina.registry import InputError


def write_job(
    data: str, output: Path | None, text: Sequence[str], label: str | None, tasks: str | None
) -> bool:
    """Write a job file, say what was found, and check the job; False where it is not sound.

    Raises InputError where the data cannot be read, or the file is there already.
    """
    path = output or Path(f"{_name_of(data)}.yaml")
    if path.exists():
        raise InputError(f"--output: {str(path)!r} is there already (allowed: -o ANOTHER.yaml)")
    proposal = propose(data, path, text, label, tasks)
    for line in proposal.lines:
        click.echo(line)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, proposal.text)
    click.echo(f"\n{path} is written; next: lamina run {path}, or lamina sweep {path}")
    return check_jobs([path], ())


def _name_of(data: str) -> str:
    """A name for the job, and for its file: that of the data without its endings."""
    stem = Path(data.rstrip("/")).name.partition(".")[0]
    return re.sub(r"[^\w-]+", "_", stem).strip("_") or "job"
