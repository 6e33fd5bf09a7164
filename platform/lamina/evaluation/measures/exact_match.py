"""Exact match: the share of answers that are right to the last token, the end included.

Nothing is generated for it. Greedy decoding says exactly the right answer if each token of it is
the best one when all before it are given (by induction over the tokens), which one forward tells.
"""

from typing import TYPE_CHECKING

from lamina.evaluation.measures.base import Measure

if TYPE_CHECKING:
    from lamina.evaluation.answers import TokenAnswers


class ExactMatch(Measure):
    """Rows that are right at every token / rows."""

    def of(self, found: "TokenAnswers") -> float:
        """Compares token ids, so capitals, blanks and punctuation count."""
        return int(found.right.sum()) / len(found)
