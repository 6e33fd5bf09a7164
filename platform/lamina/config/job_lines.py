"""The lines of a job file that a program writes: sections, values as YAML, and the reason of each
behind it."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lamina.config.reading import Plain, read_yaml


def head(job: Path, data: str) -> Iterator[str]:
    """The first lines of a job file: what it was made of and what to do with it, its name, its
    seed."""
    yield f"# {data}. Made by `lamina init`; jobs/README.md has all keys."
    yield "#"
    yield f"#   lamina check {job}     # is all well?"
    yield f"#   lamina run {job}       # one trial, in this process"
    yield f"#   lamina sweep {job}     # the trials of the sweep below, ranked"
    yield f"name: {scalar(job.stem)}"
    yield "seed: 0"


def section(name: str, values: Plain, reasons: Mapping[str, str]) -> Iterator[str]:
    """A section with the reason of each key."""
    yield f"{name}:"
    for key, value in values.items():
        said = f"  {key}: {flow(value)}"
        yield f"{said}  # {reasons[key]}" if reasons.get(key) else said


def flow(value: Any) -> str:
    """A value as YAML on one line."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {flow(each)}' for key, each in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(flow, value))}]"
    return scalar(value) if isinstance(value, str) else json.dumps(value)


def scalar(text: str) -> str:
    """A text as YAML: plain where that is read as the same text, or else in quotes."""
    is_plain = re.fullmatch(r"[\w./-]+( [\w./-]+)*", text, re.ASCII) is not None
    if is_plain and not text.startswith("-") and read_yaml(text, "init") == text:
        return text
    # JSON leaves DEL and other controls beyond ASCII's first as they are; YAML takes none.
    return json.dumps(text, ensure_ascii=not text.isprintable())
