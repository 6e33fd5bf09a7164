"""Slot F1: which share of a call is right, as in `HassTurnOn(area=attic, name=lamp)`. Each slot
with its value counts, and so does the name of the call."""

import re
from collections import Counter

from lamina.evaluation.measures.base import OfPairs

_CALL = re.compile(r"\s*([^()]*)\((.*)\)\s*", re.DOTALL)
_BETWEEN = re.compile(r",\s*(?=[^\s=,()]+=)")
"""Before the next `name=`: a value may have commas of its own."""


class SlotF1(OfPairs):
    """2 c / (s + w) over all rows of a task: s generated slots, w right slots, and c slots that are
    in both. Their order does not matter."""

    words = "slot F1"

    def of_pairs(self, pairs: list[tuple[str, str]]) -> float:
        """The micro average, as CoNLL's scorer computes it."""
        common = total = 0
        for said, wanted in pairs:
            found, right = slots_of(said), slots_of(wanted)
            common += (found & right).total()
            total += found.total() + right.total()
        return 2 * common / total


def slots_of(call: str) -> Counter[str]:
    """The name of a call and its slots, as `name=value`; a text that is no call is one name."""
    match = _CALL.fullmatch(call)
    if match is None:
        return Counter([call.strip()])
    name, inside = match.groups()
    slots = [slot.strip() for slot in _BETWEEN.split(inside) if slot.strip()]
    return Counter([f"{name.strip()}()", *slots])
