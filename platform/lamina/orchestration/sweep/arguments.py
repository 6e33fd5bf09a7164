"""A class of Ray Tune's by its name, with the arguments that a job gives it, checked."""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin

from lamina.config.fields import read_value, unknown_key
from lamina.registry import InputError, unknown

_JOB_SAYS = ("time_attr", "metric", "mode", "space", "max_concurrent")
"""What the job says elsewhere, or what is always the same."""
_OBJECTS = (
    "analysis",
    "ax_client",
    "custom_explore_fn",
    "evaluated_rewards",
    "log_config",
    "outcome_constraints",
    "require_attrs",
    "sampler",
    "storage",
)
"""What is an object of Python, or would be written where nobody looks."""
_PLAIN = (int, float, bool, str, type(None))


def named(
    key: str,
    settings: Mapping[str, Any],
    known: Mapping[str, Callable[..., Any]],
    refused: Mapping[str, str],
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The class that settings name, imported, and the arguments that they give, checked against its
    signature.

    Ray's own `create_scheduler` drops arguments that it does not know, so that a misspelt one would
    change nothing. `refused` has the reason why, by name. Raises InputError.
    """
    name = settings["name"]
    if name in refused:
        usable = ", ".join(sorted(each for each in known if each not in refused))
        raise InputError(f"{key}.name: {name!r} {refused[name]} (allowed: {usable})")
    if name not in known:
        raise unknown(f"{key}.name", name, [each for each in known if each not in refused])
    made = known[name]
    if inspect.isfunction(made):
        try:
            made = made()
        except Exception as error:  # A package that it needs is missing, or of another version.
            raise InputError(
                f"{key}.name: {name!r} cannot be imported: {reason_of(error)}"
            ) from error
    given = {each: value for each, value in settings.items() if each != "name"}
    hints = _arguments(made)
    problems: list[str] = []
    for each, value in given.items():
        if each not in hints:
            raise InputError(unknown_key(f"{key}.{each}", hints))
        if _is_plain(hints[each]):
            given[each] = read_value(hints[each], value, f"{key}.{each}", problems)
    if problems:
        raise InputError(problems[0])
    return made, given


def made_of(key: str, made: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """What a class of Ray Tune's makes of arguments. Raises InputError with Ray's own reason, in
    one line."""
    try:
        return made(**given)
    except (
        Exception
    ) as error:  # A missing package is an AssertionError, a TuneError, an ImportError.
        raise InputError(f"{key}: {reason_of(error)}") from error


def reason_of(error: BaseException | str) -> str:
    """Why Ray Tune refuses something, in one line."""
    return " ".join(str(error).split()) or "an argument is not allowed"


def has(made: Callable[..., Any], argument: str) -> bool:
    """Whether a class takes an argument of this name."""
    return argument in inspect.signature(made).parameters


def _arguments(made: Callable[..., Any]) -> dict[str, Any]:
    """What a job may give, with its type as it is written."""
    return {
        each.name: each.annotation
        for each in inspect.signature(made).parameters.values()
        if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
        and each.name not in (*_JOB_SAYS, *_OBJECTS)
    }


def _is_plain(hint: Any) -> bool:
    """Whether a type is one of JSON's, or made of such. Other types are for the class to check."""
    origin = get_origin(hint)
    if origin in (Union, UnionType) or (
        isinstance(origin, type) and issubclass(origin, Collection) and not _maps(origin)
    ):
        return _all_plain(get_args(hint))
    return hint in _PLAIN


def _all_plain(hints: Iterable[Any]) -> bool:
    return all(hint is Ellipsis or _is_plain(hint) for hint in hints)


def _maps(origin: type) -> bool:
    return issubclass(origin, Mapping)
