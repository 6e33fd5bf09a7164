"""The file tree is the registry: `name: l2p` in a job is `strategies/l2p.py`.

Every family of named things (strategies, adapter kinds, stream sources, memory policies) is a
package whose modules are its members. Nothing is listed twice, and adding a member edits no other
file.
"""

import sys
from collections.abc import Collection
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, ClassVar


class InputError(ValueError):
    """Something from outside (a job file, a data set, an adapter) is wrong; the message is for the
    person who gave it."""

    exit_code: ClassVar[int] = 2
    """Of a command that it ends: 2, the job or its input is refused; 1, it ran and failed."""


def unknown(key: str, given: object, allowed: Collection[str]) -> InputError:
    """The one way to say that `given` is not among `allowed`: names the key and the
    nearest match.
    """
    by_lower_case = {name.lower(): name for name in allowed}
    near = get_close_matches(str(given).lower(), list(by_lower_case), n=1, cutoff=0.4)
    hint = f"; did you mean {by_lower_case[near[0]]!r}?" if near else ""
    return InputError(f"{key}: {given!r} is unknown{hint} (allowed: {', '.join(sorted(allowed))})")


class Where:
    """For which values of another setting a setting matters: `Where("optimizer", "sgd")`. Without
    values: wherever the other one is not null, false, 0 or empty, as in `Where("online")`.

    A settings class says it in `matters_when`: see `only_where`.
    """

    def __init__(self, setting: str, *values: Any) -> None:
        self.setting = setting
        self.values = values

    def holds(self, value: Any) -> bool:
        """Whether the dependent setting matters where the other one has this value."""
        return value in self.values if self.values else bool(value)


def only_where(**rules: str | Where) -> dict[str, Where]:
    """What a settings class says in `matters_when`, by the setting that depends on another:
    `only_where(decay="online", momentum=Where("optimizer", "sgd"))`."""
    return {key: Where(rule) if isinstance(rule, str) else rule for key, rule in rules.items()}


def folders_of(package: str) -> list[str]:
    """Where the modules of a package of Lamina are. Imports nothing: many packages import torch."""
    if package in sys.modules:
        return list(sys.modules[package].__path__)
    return [str(Path(__file__).parent.joinpath(*package.split(".")[1:]))]


def member_names(package: str, not_members: Collection[str] = ("base",)) -> list[str]:
    """The names a job may use for a member of `package`: its public modules, sorted."""
    found = (module.name for module in iter_modules(folders_of(package)))
    return sorted(name for name in found if name not in not_members and not name.startswith("_"))


def member_class(package: str, name: str, base: type, key: str, **options: Any) -> type:
    """The one subclass of `base` that module `package.name` defines.

    Raises InputError when there is no such module; `key` is the job's key that named it.
    """
    allowed = member_names(package, **options)
    if name not in allowed:
        raise unknown(key, name, allowed)
    module = import_module(f"{package}.{name}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, base)
        and value is not base
        and value.__module__ == module.__name__
    ]
    assert len(found) == 1, f"{module.__name__} must define exactly one {base.__name__}"
    return found[0]
