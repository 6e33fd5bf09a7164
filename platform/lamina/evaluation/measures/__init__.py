"""Measures: what an entry of R says of a task's answers. `measure: slot_f1` in a job is
`measures/slot_f1.py`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

from lamina.evaluation.measures.base import Measure
from lamina.registry import InputError, member_class, member_names

if TYPE_CHECKING:
    # The names alone are read where a job is, and torch takes a second to load.
    from lamina.core import AnswerKind

_PACKAGE = "lamina.evaluation.measures"
KEY = "training.measure"
DEFAULTS: "dict[AnswerKind, str]" = {"classes": "accuracy", "tokens": "exact_match"}
"""The default measure of each kind of answers."""


def measure_names() -> list[str]:
    """Every measure, sorted."""
    return member_names(_PACKAGE)


def measure_of(name: str | None, answers: "AnswerKind") -> Measure:
    """A measure by its name; None: that of the kind of answers. Raises InputError for one that is
    unknown, is of other answers, or needs a package that is not there."""
    name = name or DEFAULTS[answers]
    measure = cast(Measure, member_class(_PACKAGE, name, Measure, KEY)())
    if measure.answers != answers:
        fit = [each for each in measure_names() if _class(each).answers == answers]
        raise InputError(
            f"{KEY}: {name!r} is of {measure.answers}, and the answers of the stream are {answers} "
            f"(allowed: {', '.join(fit)})"
        )
    measure.check()
    return measure


def named(summary: str, measure: str) -> str:
    """The name of a summary of R for a measure: `average_accuracy` becomes `average_slot_f1`."""
    return summary.replace("accuracy", measure)


def measure_in(metrics: Mapping[str, Any]) -> str:
    """The measure that a trial's metrics are of, by their names; accuracy where nothing says."""
    for key in metrics:
        of, _, name = key.partition("/average_")
        if of in ("validation", "test") and name in measure_names():
            return name
    return DEFAULTS["classes"]


def better_of(name: str) -> Literal["max", "min"]:
    """Whether more or less of a measure is better."""
    return _class(name).better


def words_of(name: str) -> str:
    """A measure's name for people."""
    return _class(name).words or name.replace("_", " ")


def _class(name: str) -> type[Measure]:
    return cast(type[Measure], member_class(_PACKAGE, name, Measure, KEY))
