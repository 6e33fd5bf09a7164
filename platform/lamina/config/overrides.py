"""Laying one mapping of a job over another: what command-line overrides and sweep variants do."""

from collections.abc import Callable, Mapping
from typing import Any

from lamina.config.reading import Plain, shown

SPACE = "sweep.space"
"""Below this key names are dotted keys themselves, and a value is one thing: how its key varies."""
VARYING = (
    "stream",
    "scenario",
    "backbone",
    "adapter",
    "strategy",
    "memory",
    "training",
    "federation",
)
"""The sections that a trial depends on. They and the seed are what may vary."""
SECTIONS = (*VARYING, "sweep", "hosts", "tracking")
"""The keys of a job that hold a mapping."""
NAMED_BY = {
    "stream": "name",
    "adapter": "kind",
    "strategy": "name",
    "memory": "policy",
    "federation.partition": "kind",
    "federation.arrival": "kind",
    "federation.aggregator": "name",
    "federation.server_optimiser": "name",
}
"""The sections whose remaining keys depend on what this key names."""


def nested(given: Mapping[Any, Any], problems: list[str], above: str = "") -> Plain:
    """`given` with its dotted keys opened: `{"a.b": 2}` is `{"a": {"b": 2}}`.

    Adds a line to `problems` for each key that is no text, or that is given twice.
    """
    result: Plain = {}
    for key, value in given.items():
        if not isinstance(key, str) or not all(key.split(".")):
            problems.append(f"{above}{shown(key)}: not a key (allowed: names joined by dots)")
            continue
        head, _, rest = key.partition(".")
        path = f"{above}{head}"
        if above == f"{SPACE}.":
            head, rest, path = key, "", f"{above}{key}"
        opened = {rest: value} if rest else value
        if isinstance(opened, Mapping) and above != f"{SPACE}.":
            opened = nested(opened, problems, f"{path}.")
        if head not in result:
            result[head] = opened
        elif isinstance(result[head], dict) and isinstance(opened, dict):
            _join(result[head], opened, problems, path)
        else:
            problems.append(f"{path}: given twice (allowed: once)")
    return result


def _join(target: Plain, more: Plain, problems: list[str], path: str) -> None:
    for key, value in more.items():
        if key not in target:
            target[key] = value
        elif isinstance(target[key], dict) and isinstance(value, dict):
            _join(target[key], value, problems, f"{path}.{key}")
        else:
            problems.append(f"{path}.{key}: given twice (allowed: once)")


def dotted(given: Mapping[str, Any], above: str = "") -> Plain:
    """The leaves of `given` by their dotted keys; empty mappings and lists are leaves."""
    result: Plain = {}
    for key, value in given.items():
        path = f"{above}{key}"
        if isinstance(value, Mapping) and value and path != SPACE:
            result.update(dotted(value, f"{path}."))
        else:
            result[path] = value
    return result


def laid_over(base: Plain, over: Plain, fits: Callable[[str, str, str], bool]) -> Plain:
    """`base` with what `over` gives, section by section; both are nested.

    Where `over` names another class for a section, only those of the section's other keys stay for
    which `fits(section, name, key)` says that the new class has them too.
    """
    result = dict(base)
    for section, given in over.items():
        old = base.get(section)
        if not isinstance(old, dict) or not isinstance(given, dict):
            result[section] = given
            continue
        by = NAMED_BY.get(section)
        name = given.get(by) if by else None
        if name is not None and name != old.get(by):
            old = {key: value for key, value in old.items() if fits(section, str(name), key)}
        result[section] = _deeper(old, given, section)
    return result


def _deeper(base: Plain, over: Plain, path: str) -> Plain:
    result = dict(base)
    for key, given in over.items():
        old = base.get(key)
        if isinstance(old, dict) and isinstance(given, dict) and path != SPACE:
            by = _NAMED_BELOW.get(f"{path}.{key}")
            if by in given and given[by] != old.get(by):
                old = {}
            result[key] = _deeper(old, given, f"{path}.{key}")
        else:
            result[key] = given
    return result


_NAMED_BELOW = {**NAMED_BY, "sweep.scheduler": "name", "sweep.searcher": "name"}
"""Where another name makes the old arguments meaningless."""
