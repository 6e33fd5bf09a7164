"""Checking a plain mapping against the fields of a dataclass, in words for people."""

import json
import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from lamina.config.outline import NO_DEFAULT, Declared
from lamina.config.reading import Plain, shown
from lamina.registry import InputError, unknown

T = TypeVar("T")
LARGEST = 3.4e38
"""Of a setting that is a number: beyond it float32 has infinity only."""
LARGEST_WHOLE = 2**32 - 1
"""Of a setting that is a whole number; seeds of numpy and of Ray Tune's searchers end here too."""


class ConfigError(InputError):
    """All that is wrong with a job, a line each."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)

    @property
    def problems(self) -> list[str]:
        """One line per problem, in the order of the file's sections."""
        return list(self.args)

    def __str__(self) -> str:
        return "\n".join(self.args)


class Unfit(str):
    """A problem's line that says that two parts, each sound, do not go together."""


def settings_of(cls: type) -> dict[str, Field[Any]]:
    """The fields of a dataclass that a job may set."""
    return {each.name: each for each in fields(cls) if each.init and not each.name.startswith("_")}


def declared_by(cls: type) -> dict[str, Declared]:
    """The fields of a dataclass that a job may set, with their types."""
    hints = get_type_hints(cls, include_extras=True)
    found = {}
    for name, each in settings_of(cls).items():
        default = each.default
        if default is MISSING:
            default = NO_DEFAULT if each.default_factory is MISSING else None
        found[name] = Declared(hints[name], default)
    return found


def read_settings(
    known: Mapping[str, Declared],
    given: Mapping[str, Any],
    key: str,
    problems: list[str],
    also: Collection[str] = (),
) -> Plain:
    """The values of `given`, each of its type. Adds a line to `problems` for each mistake.

    `key` is the dotted key of the section ("" for the job itself); `also` are keys that are read
    elsewhere.
    """
    values: Plain = {}
    for name, value in given.items():
        if name in known:
            values[name] = read_value(known[name].hint, value, _path(key, name), problems)
        elif name not in also:
            problems.append(unknown_key(_path(key, name), [*known, *also]))
    for name, each in known.items():
        if name not in given and each.default is NO_DEFAULT:
            problems.append(f"{_path(key, name)}: missing (allowed: {in_words(each.hint)})")
    return values


def read_fields(
    cls: type[T],
    given: Mapping[str, Any],
    key: str,
    problems: list[str],
    also: Collection[str] = (),
) -> T | None:
    """`cls` made from `given` as `read_settings` reads it, or None where something is wrong."""
    before = len(problems)
    values = read_settings(declared_by(cls), given, key, problems, also)
    if len(problems) > before:
        return None
    try:
        return cls(**values)
    except ValueError as error:
        problems.extend(
            line if line.startswith(f"{key}.") else f"{key}: {line}"
            for line in str(error).splitlines()
        )
        return None


def read_value(hint: Any, value: Any, path: str, problems: list[str]) -> Any:
    """`value` as of type `hint`; None after adding a line to `problems`.

    The strict rules for JSON are what a job means: 2 is a number too, but "abc", 2.5, true and "2"
    are no whole numbers. Numbers are finite and not beyond LARGEST and LARGEST_WHOLE.
    """
    for below, number in _beyond(value):
        largest = LARGEST_WHOLE if isinstance(number, int) else LARGEST
        problems.append(
            f"{path}{below}: {shown(number)} is not allowed (allowed: numbers from "
            f"{_round(-largest)} to {_round(largest)})"
        )
        return None
    words = get_args(hint) if get_origin(hint) is Literal else ()
    if words and isinstance(value, str) and value not in words:
        problems.append(str(unknown(path, value, [str(word) for word in words])))
        return None
    try:
        return _type_adapter(hint).validate_json(json.dumps(value), strict=True)
    except ValidationError:
        problems.append(f"{path}: {shown(value)} is not allowed (allowed: {in_words(hint)})")
        return None


def _beyond(value: Any, below: str = "") -> Iterator[tuple[str, int | float]]:
    """The numbers in a value that no setting can be, with the dotted keys that they are under."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _beyond(each, f"{below}.{key}")
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _beyond(each, below)
    elif isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > LARGEST_WHOLE:
            yield below, value
    elif isinstance(value, float) and not abs(value) <= LARGEST:
        yield below, value


def _round(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


def _path(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def unknown_key(path: str, allowed: Collection[str], elsewhere: Sequence[str] = ()) -> str:
    """The line for a key that is not there, with the nearest one that is, or with the keys
    `elsewhere` that have this very name."""
    above, _, name = path.rpartition(".")
    near = list(elsewhere) or get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    where = f"allowed in {above}" if above else "allowed"
    return f"{path}: unknown key{hint} ({where}: {', '.join(sorted(allowed)) or 'nothing'})"


@cache
def _type_adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)


_WORDS = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    bool: ("true or false", "true or false"),
    Path: ("a path", "paths"),
    type(None): ("null", "null"),
}


def in_words(hint: Any, many: bool = False) -> str:
    """A type as a person would say it: `int | None` is "a whole number or null"."""
    if hint in _WORDS:
        return _WORDS[hint][many]
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return " ".join([in_words(args[0], many), *_limits(args[1:])])
    if origin is Literal:
        return " or ".join(shown(each) for each in args)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(in_words(each, many) for each in args))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "mappings" if many else "a mapping"
    if isinstance(origin, type) and issubclass(origin, Collection):
        if origin is tuple and args[-1] is not Ellipsis:
            return f"a list of {len(args)}: {', '.join(in_words(each) for each in args)}"
        return f"a list of {in_words(args[0], many=True)}"
    return "any value"


def _limits(metadata: Collection[Any]) -> list[str]:
    signs = {"gt": "above", "ge": "of at least", "lt": "below", "le": "of at most"}
    found = []
    for each in metadata:
        bounds = getattr(each, "metadata", None) or [each]
        found += [
            f"{word} {getattr(bound, sign)}"
            for bound in bounds
            for sign, word in signs.items()
            if getattr(bound, sign, None) is not None
        ]
    return [" and ".join(found)] if found else []
