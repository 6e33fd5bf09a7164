"""Trace: the times at which clients have new rows come from a file."""

import csv
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lamina.registry import InputError, unknown
from lamina.streams.arrivals.base import Arrival

_COLUMNS = ("client", "time")


@dataclass(frozen=True, kw_only=True)
class Trace(Arrival):
    """Recorded times. Which task comes when is for `order` and `pieces` to say; whoever knows that
    too has a stream manifest."""

    path: str
    """A CSV file with the columns `client` (the names of the partition) and `time` (in stream
    steps, none negative), a line for each delivery, in any order."""

    def times(
        self, client: str, slots: NDArray[np.int64], joined: float, random: np.random.Generator
    ) -> NDArray[np.float64]:
        """The client's first n times. Raises InputError where it has fewer."""
        if client not in self._recorded:
            raise unknown("federation.arrival.path: client", client, list(self._recorded))
        recorded = self._recorded[client]
        if len(recorded) < len(slots):
            raise InputError(
                f"federation.arrival.path: {self.path!r} has {len(recorded)} times of client "
                f"{client!r}, which has {len(slots)} deliveries (allowed: {len(slots)} or more)"
            )
        return recorded[: len(slots)]

    def last(self, client: str, slots: NDArray[np.int64]) -> float:
        """When its last rows come."""
        return float(self.times(client, slots, 0.0, np.random.default_rng(0))[-1])

    @cached_property
    def _recorded(self) -> dict[str, NDArray[np.float64]]:
        """The times of each client, ascending."""
        found: dict[str, list[float]] = {}
        try:
            with Path(self.path).expanduser().open(encoding="utf-8", newline="") as file:
                reader = csv.DictReader(file)
                missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
                if missing:
                    raise InputError(
                        f"federation.arrival.path: {self.path!r} lacks the column {missing[0]!r} "
                        f"(allowed: {', '.join(_COLUMNS)})"
                    )
                for row in reader:
                    time = self._number(row["time"], reader.line_num)
                    found.setdefault(row["client"], []).append(time)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"federation.arrival.path: {self.path!r} cannot be read ({error})"
            ) from None
        return {client: np.sort(np.array(times)) for client, times in found.items()}

    def _number(self, text: str | None, line: int) -> float:
        try:
            time = float(text or "")
        except ValueError:
            time = float("nan")
        if not isfinite(time) or time < 0:
            raise InputError(
                f"federation.arrival.path: {self.path!r}, line {line}: time {text!r} is not "
                "allowed (allowed: a number of at least 0)"
            )
        return time
