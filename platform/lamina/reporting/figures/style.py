"""What all pictures have in common.

A figure is `data` and `layout` as plotly.js takes them. It has no colours of text and ground, which
the page lays under it (light or dark).
"""

from collections.abc import Sequence
from math import isfinite
from typing import Any

from lamina.evaluation.leaderboard import Row
from lamina.tracking.palette import PALETTE

Figure = dict[str, Any]
Trace = dict[str, Any]

_DASHES = ("solid", "dash", "dot", "dashdot")
_MARKS = ("circle", "diamond", "square", "triangle-up", "x", "star")
_DECIMALS = 4
"""Of a number in the page: the pictures need no more."""


class Styles:
    """A strategy has one colour and mark in all pictures; its settings differ in their dashes."""

    def __init__(self, rows: Sequence[Row]) -> None:
        strategies = list(dict.fromkeys(row["strategy"] for row in rows))
        self._number = {strategy: number for number, strategy in enumerate(strategies)}
        self._dashes: dict[str, dict[str, int]] = {}

    def colour(self, strategy: str) -> str:
        """Of a line or mark."""
        return PALETTE[self._number[strategy] % len(PALETTE)]

    def mark(self, strategy: str) -> str:
        """Of a point: another for the seventh strategy than for the first."""
        return _MARKS[self._number[strategy] // len(PALETTE) % len(_MARKS)]

    def dash(self, strategy: str, name: str) -> str:
        """Of a line: the first setting of a strategy is solid."""
        those = self._dashes.setdefault(strategy, {})
        return _DASHES[those.setdefault(name, len(those)) % len(_DASHES)]


def rounded(values: Sequence[float | None], decimals: int = _DECIMALS) -> list[float | None]:
    """Values for JSON, which knows no NaN."""
    return [
        None if value is None or not isfinite(value) else round(value, decimals) for value in values
    ]


def faint(colour: str) -> str:
    """A colour for an area that others lie over."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.12)"
