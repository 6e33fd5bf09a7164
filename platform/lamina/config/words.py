"""The words of a job: its files and overrides, one laid over the other; keys, names and types.

Nothing here imports torch, so whatever is misspelt is told at once. What values mean together is
checked when the job is made: see `lamina.config.job`.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lamina.config.components import declared, read_sections
from lamina.config.defaults import completed
from lamina.config.fields import ConfigError, read_value, unknown_key
from lamina.config.overrides import NAMED_BY, SPACE, VARYING, dotted, laid_over, nested
from lamina.config.peft_tuners import misspelt
from lamina.config.reading import Plain, is_job_file, read_job_file, read_overrides
from lamina.config.sections import FAMILIES, split_key, stays, value_at
from lamina.config.space import Domain
from lamina.registry import unknown

JobSource = Path | str | Mapping[str, Any]
"""A job file, or the mapping that one would hold."""


def read_job(job: JobSource, overrides: Sequence[str] = ()) -> Plain:
    """The mapping of a job, with others laid over it: first job files, in their order, then
    `KEY=VALUE` words.

    `prompt.yaml digits.yaml` is called `prompt-digits` unless a file gives a name. An overridden
    key that the sweep's space would vary varies no longer. Raises ConfigError (or InputError, when
    there is nothing to check yet) with a line for every problem.
    """
    problems: list[str] = []
    files = [Path(each) for each in overrides if is_job_file(each)]
    given = [nested(read_job_file(each), problems) for each in files]
    if isinstance(job, Mapping):
        given.insert(0, nested(job, problems))
    else:
        given.insert(0, nested(read_job_file(Path(job)), problems))
        files.insert(0, Path(job))
    mapping: Plain = {"name": "-".join(each.stem for each in files) or "job"}
    for each in given:
        mapping = laid_over(mapping, each, stays)
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


def check_words(job: JobSource, overrides: Sequence[str] = ()) -> None:
    """Whether every key, name and type of a job is one, those of its sweep too. Raises ConfigError
    with a line for every problem."""
    problems: list[str] = []
    given = completed(nested(read_job(job, overrides), problems))
    _, sections = read_sections(given, problems, make=False)
    sweep = sections["sweep"]
    if sweep is not None:
        problems += not_varying(sweep.space, sweep.variants)
    if problems or sweep is None:
        raise_if(problems)
        return
    jobs = [given]
    for number, variant in enumerate(sweep.variants, start=1):
        wrong: list[str] = []
        jobs.append(completed(laid_over(given, nested(variant, wrong), stays)))
        read_sections({**jobs[-1], "sweep": None}, wrong, make=False)
        problems += [f"sweep.variants, number {number}: {line}" for line in wrong]
    for key, domain in sweep.domains.items():
        problems += _wrong_values(key, domain, sweep.domains, jobs)
    raise_if(problems)


def raise_if(problems: Sequence[str]) -> None:
    """Raises ConfigError where there are any."""
    if problems:
        raise ConfigError(*dict.fromkeys(problems))


def not_varying(space: Mapping[str, Any], variants: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What no trial depends on, and what is no key but a section: a line each."""
    varying = ("seed", *VARYING)
    for key in space:
        section = key.partition(".")[0]
        if section not in varying:
            line = unknown_key(f"{SPACE}.{section}", varying)
            yield line.replace("unknown key", "cannot vary", 1)
        elif key == section and section != "seed":
            yield f"{SPACE}.{key}: is a section (allowed: one of its keys, as in training.epochs)"
    for number, variant in enumerate(variants, start=1):
        for key in nested(variant, []):
            if key not in varying:
                said = ", ".join(varying)
                yield f"sweep.variants, number {number}: {key} cannot vary (allowed: {said})"


def _wrong_values(
    key: str, domain: Domain, domains: Mapping[str, Domain], jobs: Sequence[Plain]
) -> Iterator[str]:
    """What no class that the sweep may name for a key's section has, or takes."""
    section, name = split_key(key)
    path = f"{SPACE}.{key}"
    if key == "seed":
        hints: list[Any] = [int]
    elif section in NAMED_BY:
        family = FAMILIES[section]
        if name == NAMED_BY[section]:
            for example in domain.examples():
                if example not in family.names():
                    yield str(unknown(path, example, family.names()))
            return
        naming = domains.get(family.key)
        named = [value_at(job, family.key) for job in jobs]
        named += [] if naming is None else naming.examples()
        classes = [family.outline(each).settings() for each in named if each in family.names()]
        hints = [each[name].hint for each in classes if name in each]
        if not hints:
            allowed = {each for known in classes for each in known}
            line = unknown_key(f"{section}.{name}", allowed | {NAMED_BY[section]})
            yield f"{SPACE}.{line}"
            return
    else:
        known = declared(section)
        if name not in known:
            yield f"{SPACE}.{unknown_key(f'{section}.{name}', known)}"
            return
        hints = [known[name].hint]
    if key != f"{section}.{name}" and key != "seed":
        return
    for example in domain.examples():
        lines = [_wrong_type(hint, example, path) for hint in hints]
        if all(lines):
            yield from lines[0]
        elif key == "adapter.peft_type":
            yield from (f"{SPACE}.{each}" for each in misspelt({name: example}))


def _wrong_type(hint: Any, value: Any, path: str) -> list[str]:
    problems: list[str] = []
    read_value(hint, value, path, problems)
    return problems
