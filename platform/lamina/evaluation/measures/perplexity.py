"""Perplexity: how many tokens a model hesitates between, on average, at each token of the right
answers."""

from math import exp
from typing import TYPE_CHECKING

from lamina.evaluation.measures.base import Measure

if TYPE_CHECKING:
    from lamina.evaluation.answers import TokenAnswers


class Perplexity(Measure):
    """exp of the mean over tokens, all rows together, of -log p(token | those before it). At least
    1; less is better."""

    better = "min"

    def of(self, found: "TokenAnswers") -> float:
        """A longer answer counts for more; infinite where the sum is too large for a float."""
        mean = float(found.surprise.sum()) / int(found.num_tokens.sum())
        return exp(mean) if mean < 700 else float("inf")
