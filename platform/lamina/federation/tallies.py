"""What a federated run counts: bytes as they were really sent, who took part, what was refused."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Tallies:
    """Totals over a run; clients by their numbers."""

    up: Counter[int] = field(default_factory=Counter)
    """Bytes that each client sent."""
    down: Counter[int] = field(default_factory=Counter)
    """Bytes that each client was sent."""
    asked: Counter[int] = field(default_factory=Counter)
    """How often each was given work."""
    included: Counter[int] = field(default_factory=Counter)
    """How often an update of each went into the global state."""
    refused: Counter[str] = field(default_factory=Counter)
    """Updates that were refused, by reason."""
    fates: Counter[str] = field(default_factory=Counter)
    """Of those that were given work: how many updates arrived, and why others did not."""
    staleness: Counter[int] = field(default_factory=Counter)
    """Of updates, how many rounds ended between their start and their arrival."""

    def state_dict(self) -> dict[str, Any]:
        """Plain values; keys as strings."""
        return {
            name: {str(key): number for key, number in counter.items()}
            for name, counter in vars(self).items()
        }

    @staticmethod
    def of(state: Mapping[str, Mapping[str, int]]) -> "Tallies":
        """Back from `state_dict`."""
        found = Tallies()
        for name, each in state.items():
            counter: Counter[Any] = getattr(found, name)
            words = name in ("refused", "fates")
            counter.update({(key if words else int(key)): n for key, n in each.items()})
        return found
