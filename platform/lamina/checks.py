"""What the fields of a settings class may hold, checked where an object of it is made."""

from collections.abc import Callable, Iterable
from dataclasses import fields
from math import isnan
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lamina.registry import InputError, unknown

_BOUNDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "not_negative": (lambda value: value >= 0, "is negative"),
    "positive": (lambda value: value > 0, "is not positive"),
    "share": (lambda value: 0 <= value <= 1, "is not in [0, 1]"),
    "share_below_1": (lambda value: 0 <= value < 1, "is not in [0, 1)"),
    "share_above_0": (lambda value: 0 < value <= 1, "is not in (0, 1]"),
    "even": (lambda value: value >= 2 and value % 2 == 0, "is not an even number of tokens"),
}
"""By the name of the argument of `check_fields`: what is allowed, and what is said of the rest."""


def check_fields(
    section: str,
    settings: Any,
    *,
    not_negative: Iterable[str] = (),
    positive: Iterable[str] = (),
    share: Iterable[str] = (),
    share_below_1: Iterable[str] = (),
    share_above_0: Iterable[str] = (),
    even: Iterable[str] = (),
) -> None:
    """Raise InputError for a field of `settings` that is out of its bounds, or whose type is one of
    some words and which is none of them, by its key in the job's `section`.

    A field that is None has its default and is not looked at.
    """
    for name, words in _words_of(type(settings)).items():
        given = getattr(settings, name)
        if given is not None and given not in words:
            raise unknown(f"{section}.{name}", given, words)
    asked = {
        "not_negative": not_negative,
        "positive": positive,
        "share": share,
        "share_below_1": share_below_1,
        "share_above_0": share_above_0,
        "even": even,
    }
    for bound, names in asked.items():
        allowed, complaint = _BOUNDS[bound]
        for name in names:
            value = getattr(settings, name)
            if value is None:
                continue
            if isinstance(value, float) and isnan(value):
                raise InputError(f"{section}.{name}: {value} is not a number")
            if not allowed(value):
                raise InputError(f"{section}.{name}: {value} {complaint}")


def _words_of(cls: Any) -> dict[str, tuple[str, ...]]:
    """The words that each field may hold whose type is `Literal[...]`, or that or None."""
    found, hints = {}, get_type_hints(cls)
    for name in (each.name for each in fields(cls)):
        hint = hints[name]
        for each in get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,):
            if get_origin(each) is Literal:
                found[name] = get_args(each)
    return found
