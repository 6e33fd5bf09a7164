"""The interface of a measure."""

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
    """The kind of answers that it measures."""
    better: ClassVar[Literal["max", "min"]] = "max"
    """Whether more or less is better. What more of is better lies in [0, 1]."""
    reads_texts: ClassVar[bool] = False
    """Whether it reads generated answers. To generate them takes some five times as long as to
    compute the logits of the right answers."""
    words: ClassVar[str | None] = None
    """Its name for people; None: the name in a job."""
    package: ClassVar[str | None] = None
    """The package of `lamina[lm]` that it needs, as Python imports it."""

    @property
    def name(self) -> str:
        """As in a job."""
        return type(self).__module__.rsplit(".", 1)[-1]

    @abstractmethod
    def of(self, found: Any) -> float:
        """The measure of the answers to N > 0 rows."""

    def check(self) -> None:
        """Raise InputError where its package is not there."""
        if self.package is not None and find_spec(self.package) is None:
            raise InputError(
                f"training.measure: {self.name!r} needs the package {self.package}: "
                'pip install "lamina[lm]"'
            )


class OfPairs(Measure):
    """A measure of pairs of generated and right answers."""

    reads_texts = True

    def of(self, found: "TokenAnswers") -> float:
        """The measure of the pairs of generated and right answers."""
        return self.of_pairs(found.pairs)

    @abstractmethod
    def of_pairs(self, pairs: list[tuple[str, str]]) -> float:
        """The measure of generated texts, each with the right one."""
