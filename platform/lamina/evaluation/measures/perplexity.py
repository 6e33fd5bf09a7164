"""Perplexity: how many tokens a model hesitates between, on average, at each token of the right
answers."""

from math import exp, log
from typing import TYPE_CHECKING

from lamina.evaluation.measures.base import Measure

if TYPE_CHECKING:
    from lamina.evaluation.answers import TokenAnswers

MOST = 1e9
"""Far beyond a guess among all tokens of a vocabulary. Sums, squares and pictures of perplexities
stay finite."""


class Perplexity(Measure):
    """exp of the mean over tokens, all rows together, of -log p(token | those before it). At least
    1, and 1e9 at most; less is better."""

    better = "min"

    def of(self, found: "TokenAnswers") -> float:
        """A longer answer counts for more."""
        return perplexity(float(found.surprise.sum()) / int(found.num_tokens.sum()))


def perplexity(surprise: float) -> float:
    """Of a mean over tokens of -log p; what is no number counts as the most."""
    return exp(surprise) if surprise < log(MOST) else MOST
