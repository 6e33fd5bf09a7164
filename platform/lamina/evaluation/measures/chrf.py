"""chrF (Popovic, 2015) of a task's rows together, by `sacrebleu`, as a share: theirs is in per
cent."""

from lamina.evaluation.measures.base import OfPairs


class ChrF(OfPairs):
    """F2 of runs of up to six characters, with sacrebleu's defaults: it needs no words, and so
    suits every language."""

    words = "chrF"
    package = "sacrebleu"

    def of_pairs(self, pairs: list[tuple[str, str]]) -> float:
        """One reference a row."""
        from sacrebleu import corpus_chrf

        said, wanted = zip(*pairs, strict=True)
        return float(corpus_chrf(list(said), [list(wanted)]).score) / 100
