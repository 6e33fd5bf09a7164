"""A class of Ray Tune's by its name, with the arguments that a job gives it."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from lamina.config import ConfigError
from lamina.config.tune_classes import TuneFamily
from lamina.registry import InputError


def named(
    family: TuneFamily, settings: Mapping[str, Any], known: Mapping[str, Callable[..., Any]]
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The class among the `known` that settings name, imported, and the arguments that they give.
    Raises InputError."""
    problems: list[str] = []
    given = family.read(settings, problems)
    if problems:
        raise ConfigError(*problems)
    made = known[settings["name"]]
    if inspect.isfunction(made):
        try:
            made = made()
        except Exception as error:  # A package that it needs is missing, or of another version.
            raise InputError(
                f"{family.key}.name: {settings['name']!r} cannot be imported: {reason_of(error)}"
            ) from error
    return made, given


def made_of(key: str, made: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """An object of a class of Ray Tune, made with these arguments. Raises InputError with Ray's own
    reason, in one line."""
    try:
        return made(**given)
    except (
        Exception
    ) as error:  # A missing package is an AssertionError, a TuneError, an ImportError.
        raise InputError(f"{key}: {reason_of(error)}") from error


def reason_of(error: BaseException | str) -> str:
    """Why Ray Tune refuses something, in one line."""
    return " ".join(str(error).split()) or "an argument is not allowed"


def by_default(made: Callable[..., Any]) -> dict[str, Any]:
    """The arguments of a class that need not be given, with their values."""
    parameters = inspect.signature(made).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def has(made: Callable[..., Any], argument: str) -> bool:
    """Whether a class takes an argument of this name."""
    return argument in inspect.signature(made).parameters
