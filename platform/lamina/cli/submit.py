"""`lamina submit`, and other commands on a cluster that is somewhere else."""

import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from glob import glob
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import click

from lamina.backbones.locate import cache_folder
from lamina.config import Job, load_job
from lamina.config.reading import is_job_file
from lamina.orchestration.submission import JobServer, Submission
from lamina.registry import InputError

Command = Literal["sweep", "federate", "run"]


def submit_job(
    job: Path, overrides: Sequence[str], address: str, command: Command | None, follow: bool
) -> int:
    """Send a job to the cluster whose dashboard is at `address`. Returns the exit code: that of the
    command there where it is followed.

    Raises InputError for what is wrong with the job, or with the cluster.
    """
    loaded = load_job(job, overrides)
    _check_paths(loaded)
    server = JobServer(address)
    words = (command or _command_of(loaded), job.name, *map(_name_of, overrides))
    folder = _folder_of([job, *(Path(each) for each in overrides if is_job_file(each))])
    submission = Submission(words, folder)
    sent = server.send(submission)
    click.echo(f"{sent} is sent to {server.address}; the same without Lamina:")
    click.echo(submission.as_plain_command(server.address))
    where = f"--address {shlex.quote(server.address)}"
    later = f"ray job logs {where} --follow {sent}"
    if not follow:
        click.echo(f"{later}: what it prints")
        click.echo(f"lamina trials {loaded.output_dir} {where}: how far a sweep is")
        return 0
    try:
        return server.follow(sent, lambda text: click.echo(text, nl=False))
    except KeyboardInterrupt:
        click.echo(f"\nit goes on; to look again: {later}; to end it: ray job stop {where} {sent}")
        return 130


def run_there(address: str, *words: str) -> int:
    """Run a command of Lamina on the head of the cluster whose dashboard is at `address`, and show
    what it prints. Returns its exit code."""
    server = JobServer(address)
    return server.follow(server.send(Submission(words)), lambda text: click.echo(text, nl=False))


def _command_of(job: Job) -> Command:
    """What a job is for. One trial is a sweep too: it is trained where a host is, which may have
    the GPU that the head has not."""
    return "federate" if job.federation is not None and job.sweep is None else "sweep"


def _check_paths(job: Job) -> None:
    """Raises InputError for results that would be lost, and for data that only this machine has."""
    if not job.output_dir.is_absolute():
        raise InputError(
            f"output_dir: {str(job.output_dir)!r} is not on the cluster's disk (allowed: an "
            f"absolute path of the head's machine, as output_dir=/data/{job.output_dir})"
        )
    for key, path in _paths(job.mapping):
        if not Path(path).is_absolute() and glob(path):
            raise InputError(
                f"{key}: {path!r} is of this machine, and the cluster has not got it (allowed: the "
                "absolute path of a copy on the head's machine, or an id of the hub)"
            )


def _paths(given: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """What may be a path in a job, or in a part of it, with its key."""
    if isinstance(given, Mapping):
        for name, value in given.items():
            yield from _paths(value, f"{key}.{name}" if key else str(name))
    elif isinstance(given, list):
        for each in given:
            yield from _paths(each, key)
    elif isinstance(given, str) and key.endswith(("stream.path", "manifest", "backbone.name")):
        yield key, given


def _name_of(word: str) -> str:
    return Path(word).name if is_job_file(word) else word


def _folder_of(files: Sequence[Path]) -> Path:
    """A folder with copies of job files and nothing else, by their content: it stays, so that the
    plain command can be given again. Raises InputError where two have one name."""
    contents = {path.name: path.read_bytes() for path in files}
    if len(contents) < len(files):
        raise InputError(
            "JOB: two of its files have the same name, and they are sent in one folder (allowed: "
            f"names that differ; given: {', '.join(map(str, files))})"
        )
    digest = sha256(repr(sorted(contents.items())).encode()).hexdigest()[:10]
    folder = cache_folder() / "submitted" / digest
    folder.mkdir(parents=True, exist_ok=True)
    for path in files:
        shutil.copyfile(path, folder / path.name)
    return folder
