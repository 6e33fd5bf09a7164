"""What a measure is."""

from abc import ABC, abstractmethod
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lamina.registry import InputError

if TYPE_CHECKING:
    from lamina.core import AnswerKind
    from lamina.evaluation.answers import TokenAnswers


class Measure(ABC):
    """One number for a task's answers: an entry of R."""

    answers: "ClassVar[AnswerKind]" = "tokens"
    """What the answers are that it measures."""
    better: ClassVar[Literal["max", "min"]] = "max"
    """Whether more or less is better. What more of is better lies in [0, 1]."""
    reads_texts: ClassVar[bool] = False
    """Whether it reads what is said, which then is generated: some five times as slow as to look
    at the right answers' logits alone."""
    words: ClassVar[str | None] = None
    """What a person calls it; None: its name."""
    package: ClassVar[str | None] = None
    """The package of `lamina[lm]` that it needs, as Python imports it."""

    @property
    def name(self) -> str:
        """As in a job."""
        return type(self).__module__.rsplit(".", 1)[-1]

    @abstractmethod
    def of(self, found: Any) -> float:
        """Of the answers to N > 0 rows."""

    def check(self) -> None:
        """Raise InputError where its package is not there."""
        if self.package is not None and find_spec(self.package) is None:
            raise InputError(
                f"training.measure: {self.name!r} needs the package {self.package}: "
                'pip install "lamina[lm]"'
            )


class OfPairs(Measure):
    """A measure of what was said and what is right, pair by pair or over all of a task's rows."""

    reads_texts = True

    def of(self, found: "TokenAnswers") -> float:
        """Of the pairs."""
        return self.of_pairs(found.pairs)

    @abstractmethod
    def of_pairs(self, pairs: list[tuple[str, str]]) -> float:
        """Of texts that were said, each with the right one."""
