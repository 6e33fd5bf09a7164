"""Accuracy: the share of rows whose class is predicted."""

from typing import TYPE_CHECKING

from lamina.evaluation.measures.base import Measure

if TYPE_CHECKING:
    from lamina.evaluation.answers import Answers


class Accuracy(Measure):
    """Right rows / rows."""

    answers = "classes"

    def of(self, found: "Answers") -> float:
        """A row whose logits are not finite is wrong."""
        return int(found.right.sum()) / len(found)
