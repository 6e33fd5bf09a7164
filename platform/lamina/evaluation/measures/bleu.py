"""BLEU (Papineni et al., 2002) of a task's rows together, by `sacrebleu`, as a share: theirs is in
per cent."""

from lamina.evaluation.measures.base import OfPairs


class Bleu(OfPairs):
    """Corpus BLEU with sacrebleu's defaults: 13a tokens, up to four of them, exponential
    smoothing."""

    words = "BLEU"
    package = "sacrebleu"

    def of_pairs(self, pairs: list[tuple[str, str]]) -> float:
        """One reference a row."""
        from sacrebleu import corpus_bleu

        said, wanted = zip(*pairs, strict=True)
        return float(corpus_bleu(list(said), [list(wanted)]).score) / 100
