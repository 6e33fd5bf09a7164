"""Which bundles are served, and what requests call them."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from lamina.bundles import Bundle, find_bundle, open_bundle
from lamina.bundles.bundle import BEST, find_bundles
from lamina.registry import InputError

EVERY = "all"
"""The trials of a run, all of them."""


def select_bundles(words: Sequence[str], trials: Sequence[str] = ()) -> dict[str, Bundle]:
    """The bundles that `[NAME=]RUN` words mean, by the name that requests use: NAME, or that of the
    trial. Every file of theirs is checked, and the backbone.

    `trials` says which ones of a job's output folder: ids, names, `best` (the default) or `all`.
    Raises InputError where a bundle is not there or damaged, its backbone is another one here, or
    two have one name.
    """
    found: dict[str, list[Bundle]] = defaultdict(list)
    for word in words:
        given, run = _named(word)
        for folder in _folders(run, trials or (BEST,)):
            bundle = open_bundle(folder)
            bundle.check_files()
            bundle.check_backbone()
            found[given or bundle.facts.name].append(bundle)
    for name, several in found.items():
        if len(several) > 1:
            folders = ", ".join(str(each.folder) for each in several)
            raise InputError(
                f"RUN: {len(several)} bundles are called {name!r}: {folders} (allowed: one of a "
                "name; OTHER=RUN calls it OTHER)"
            )
    return {name: bundle for name, (bundle,) in found.items()}


def _named(word: str) -> tuple[str | None, Path]:
    """A word's NAME, if it has one, and its RUN. A folder may have `=` in its name."""
    name, sign, run = word.partition("=")
    if not sign or not name or "/" in name or Path(word).exists():
        return None, Path(word)
    return name, Path(run)


def _folders(run: Path, trials: Sequence[str]) -> list[Path]:
    folders: list[Path] = []
    for trial in trials:
        folders += find_bundles(run) if trial == EVERY else [find_bundle(run, trial)]
    return list(dict.fromkeys(folders))
