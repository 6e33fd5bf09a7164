"""`lamina check`: all that is wrong with job files, without training anything."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lamina.config import check_words
from lamina.registry import InputError

if TYPE_CHECKING:
    from lamina.config import SweepPlan
    from lamina.core import Samples, Stream


def check_jobs(paths: Sequence[Path], overrides: Sequence[str]) -> bool:
    """Say of each job that it is sound and what it is, or on stderr all that is wrong with it, a
    line each. Returns whether all are sound."""
    are_sound = [_check_job(path, overrides) for path in paths]
    return all(are_sound)


def _check_job(path: Path, overrides: Sequence[str]) -> bool:
    misspelt = _problems(lambda: check_words(path, overrides))
    _say(path, misspelt)
    facts: list[str] = []
    # What follows needs torch, which takes seconds: whatever is misspelt has been said.
    unsound = [] if misspelt else _problems(lambda: facts.append(_facts(path, overrides)))
    if misspelt or unsound:
        unsound += _problems(lambda: _check_alone(path, overrides))
        _say(path, [each for each in dict.fromkeys(unsound) if each not in misspelt])
        return False
    click.echo(f"{path}: ok: {facts[0]}")
    return True


def _problems(check: Callable[[], None]) -> list[str]:
    """What a check refuses, a line each."""
    try:
        check()
    except InputError as error:
        return list(getattr(error, "problems", [str(error)]))
    return []


def _say(path: Path, problems: Sequence[str]) -> None:
    for each in problems:
        click.echo(f"{path}: {' '.join(each.split())}", err=True)


def _check_alone(path: Path, overrides: Sequence[str]) -> None:
    """Raises InputError where data or backbone of a job are not there, though it cannot be read as
    a whole."""
    from lamina.config.build import check_sections
    from lamina.config.words import read_job

    check_sections(read_job(path, overrides))


def _facts(path: Path, overrides: Sequence[str]) -> str:
    """What a job is, in one line. Raises InputError where it is not sound."""
    from lamina.config import check_components, expand, load_job
    from lamina.streams.names import counted

    job = load_job(path, overrides)
    plan = expand(job)
    streams = check_components(point.trial.job for point in plan.points)
    _check_search(plan, streams)
    strategies = {point.trial.job.strategy_name for point in plan.points}
    longest = max(streams, key=len)
    said = [
        counted(plan.num_trials, "trial"),
        counted(len(strategies), "strategy", "strategies"),
        counted(len(longest), "task"),
        "answers of tokens"
        if longest.answers == "tokens"
        else counted(len(longest.class_names), "class", "classes"),
        counted(_num_rows(longest), "row"),
    ]
    if job.federation is not None and job.federation.settings.clients is not None:
        said.append(counted(job.federation.settings.clients, "client"))
    return f"{', '.join(said)} ({job.scenario.kind} on {job.stream.name}, {job.backbone.name})"


def _check_search(plan: "SweepPlan", streams: Sequence["Stream[Samples]"]) -> None:
    """Raises InputError where scheduler or searcher cannot do what the job asks. Only a job that
    names one is worth the seconds that Ray takes to be imported."""
    sweep = plan.job.sweep
    if sweep is None or sweep.scheduler is sweep.searcher is None:
        return
    from lamina.orchestration.sweep.schedulers import make_scheduler
    from lamina.orchestration.sweep.searchers import check_searcher

    make_scheduler(plan, max(map(len, streams)))
    check_searcher(plan)


def _num_rows(stream: "Stream[Samples]") -> int:
    return sum(
        len(rows)
        for each in stream.experiences
        for rows in (each.train, each.validation, each.test)
    )
