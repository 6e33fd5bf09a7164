"""The words of a job: its files and overrides, one laid over the other; keys, names and types.

Nothing here imports torch, so whatever is misspelt is told at once. What values mean together is
checked when the job is made: see `lamina.config.job`.
"""

from collections.abc import Sequence
from pathlib import Path

from lamina.config.fields import ConfigError
from lamina.config.overrides import dotted, laid_over, nested
from lamina.config.parts import read_sections
from lamina.config.reading import Plain, is_job_file, read_job_file, read_overrides
from lamina.config.sections import stays


def read_job(path: Path | str, overrides: Sequence[str] = ()) -> Plain:
    """The mapping in a job file, with others laid over it: first job files, in their order, then
    `KEY=VALUE` words.

    `prompt.yaml digits.yaml` is called `prompt-digits` unless a file gives a name. An overridden
    key that the sweep's space would vary varies no longer. Raises ConfigError (or InputError, when
    there is nothing to check yet) with a line for every problem.
    """
    problems: list[str] = []
    files = [Path(path), *(Path(each) for each in overrides if is_job_file(each))]
    mapping: Plain = {"name": "-".join(each.stem for each in files)}
    for each in files:
        mapping = laid_over(mapping, nested(read_job_file(each), problems), stays)
    over = nested(read_overrides(overrides), problems)
    if problems:
        raise ConfigError(*problems)
    mapping = laid_over(mapping, over, stays)
    sweep = mapping.get("sweep")
    if isinstance(sweep, dict) and isinstance(sweep.get("space"), dict):
        fixed = dotted({key: value for key, value in over.items() if key != "sweep"})
        space = {key: value for key, value in sweep["space"].items() if key not in fixed}
        mapping["sweep"] = {**sweep, "space": space}
    return mapping


def check_words(path: Path | str, overrides: Sequence[str] = ()) -> None:
    """Whether every key, name and type of a job is one. Raises ConfigError with a line for every
    problem."""
    mapping = read_job(path, overrides)
    problems: list[str] = []
    read_sections(nested(mapping, problems), problems, make=False)
    if problems:
        raise ConfigError(*problems)
