"""Rouge-L (Lin, 2004): the F1 of the longest common subsequence of words, by `rouge-score`, the
mean over rows. Words are runs of a-z and 0-9 in small letters, not stemmed."""

from statistics import fmean

from lamina.evaluation.measures.base import OfPairs


class RougeL(OfPairs):
    """Mean over rows; 0 for a row without a common word."""

    words = "Rouge-L"
    package = "rouge_score"

    def of_pairs(self, pairs: list[tuple[str, str]]) -> float:
        """As `RougeScorer(["rougeL"])` has it."""
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(["rougeL"])
        return fmean(scorer.score(wanted, said)["rougeL"].fmeasure for said, wanted in pairs)
