"""Token accuracy: the share of the right answers' tokens that are the best ones when all before
them are given. It is high long before an answer is right: most tokens follow from those before."""

from typing import TYPE_CHECKING

from lamina.evaluation.measures.base import Measure

if TYPE_CHECKING:
    from lamina.evaluation.answers import TokenAnswers


class TokenAccuracy(Measure):
    """Right tokens / tokens, all rows together."""

    def of(self, found: "TokenAnswers") -> float:
        """A longer answer counts for more."""
        return int(found.num_right.sum()) / int(found.num_tokens.sum())
