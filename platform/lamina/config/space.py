"""Search domains in plain words: `{loguniform: [1.0e-4, 1.0e-2]}` names a function of `ray.tune`.

Only names and arguments are checked here; whoever knows Ray turns a Domain into Ray's own object.
"""

from collections.abc import Mapping
from math import isclose, isfinite
from typing import Any, NamedTuple

from lamina.config.reading import shown
from lamina.registry import unknown

GRID = "grid_search"

_LISTS = (GRID, "choice")
"""Functions whose one argument is the list of values."""

_RANGES: dict[str, dict[str, float | None]] = {
    "uniform": {"lower": None, "upper": None},
    "quniform": {"lower": None, "upper": None, "q": None},
    "loguniform": {"lower": None, "upper": None},
    "qloguniform": {"lower": None, "upper": None, "q": None},
    "randint": {"lower": None, "upper": None},
    "qrandint": {"lower": None, "upper": None, "q": 1},
    "lograndint": {"lower": None, "upper": None},
    "qlograndint": {"lower": None, "upper": None, "q": None},
    "randn": {"mean": 0.0, "sd": 1.0},
    "qrandn": {"mean": None, "sd": None, "q": None},
}
"""Functions of numbers: their arguments with the defaults, None where there is none."""

_WHOLE = ("randint", "qrandint", "lograndint", "qlograndint")
FUNCTIONS = (*_LISTS, *_RANGES)


class Domain(NamedTuple):
    """What one key may be: `getattr(ray.tune, function)(*args)`."""

    function: str
    args: tuple[Any, ...]

    @property
    def is_grid(self) -> bool:
        """Whether every value is tried, instead of some being drawn."""
        return self.function == GRID

    def gives(self, value: Any) -> bool:
        """Whether a value is in its list, or within its bounds."""
        if self.function in _LISTS:
            return value in self.args[0]
        if not _is_number(value, self.function in _WHOLE):
            return False
        if self.function in ("randn", "qrandn"):
            return True
        is_open = self.function in ("randint", "lograndint")
        below = value < self.args[1] if is_open else value <= self.args[1]
        return bool(self.args[0] <= value and below)

    def examples(self) -> list[Any]:
        """Values it can give, of each kind it gives: what a key must be able to take."""
        if self.function in _LISTS:
            return list(self.args[0])
        if self.function in _WHOLE:
            return [self.args[0], self.args[1] - 1]
        if self.function in ("randn", "qrandn"):
            return [float(self.args[0])]
        return [float(self.args[0]), float(self.args[1])]


def read_domain(path: str, given: Any, problems: list[str]) -> Domain | None:
    """The domain that `given` says, or None after adding a line to `problems`."""
    if not isinstance(given, Mapping) or len(given) != 1:
        problems.append(
            f"{path}: {shown(given)} is not allowed (allowed: one function with its arguments, "
            "as in {grid_search: [1, 2]} or {loguniform: [0.001, 0.1]})"
        )
        return None
    (function, args), *_ = given.items()
    if function not in FUNCTIONS:
        problems.append(str(unknown(path, function, FUNCTIONS)))
        return None
    if function in _LISTS:
        if not isinstance(args, list) or not args:
            problems.append(
                f"{path}.{function}: {shown(args)} is not allowed (allowed: a list of values)"
            )
            return None
        return Domain(function, (args,))
    return _read_range(path, function, args, problems)


def _read_range(path: str, function: str, given: Any, problems: list[str]) -> Domain | None:
    arguments = _RANGES[function]
    named: dict[Any, Any] = {}
    if isinstance(given, Mapping):
        named = dict(given)
    elif given is None or isinstance(given, list):
        listed = given or []
        named = dict(zip([*arguments, *range(len(listed))], listed, strict=False))
    filled = {**arguments, **named}
    whole = function in _WHOLE
    sound = (
        (given is None or isinstance(given, Mapping | list))
        and filled.keys() == arguments.keys()
        and all(_is_number(value, whole) for value in filled.values())
        and _makes_sense(function, filled)
    )
    if not sound:
        kind = "whole numbers" if whole else "numbers"
        rules = ["lower < upper"] if "lower" in arguments else []
        rules += ["lower above 0"] if "log" in function else []
        rules += [f"{name} above 0" for name in ("q", "sd") if name in arguments]
        rules += ["bounds that are multiples of q"] if {"lower", "q"} <= arguments.keys() else []
        words = [name if value is None else f"{name}={value}" for name, value in arguments.items()]
        problems.append(
            f"{path}.{function}: {shown(given)} is not allowed "
            f"(allowed: the {kind} [{', '.join(words)}] with {', '.join(rules)})"
        )
        return None
    return Domain(function, tuple(filled[name] for name in arguments))


def _makes_sense(function: str, given: Mapping[str, float]) -> bool:
    """The rules that Ray Tune enforces only when it draws."""
    lower, upper, q = given.get("lower", 0), given.get("upper", 1), given.get("q", 1)
    if not lower < upper or q <= 0 or given.get("sd", 1) <= 0:
        return False
    if "log" in function and lower <= 0:
        return False
    bounds = [given[name] / q for name in ("lower", "upper") if "q" in given and name in given]
    return all(isclose(bound, round(bound)) for bound in bounds)


def _is_number(value: Any, whole: bool) -> bool:
    is_number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    return is_number and isfinite(value)
