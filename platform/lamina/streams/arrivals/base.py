"""When rows come: what an arrival process is, and what all of them have in common."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lamina.registry import InputError, unknown

Order = Literal["same", "own"]


@dataclass(frozen=True, kw_only=True)
class Arrival(ABC):
    """A rule that says when the rows of a client come, in stream steps.

    A client goes through the tasks in an order, once or several times; what it has of a task at a
    time comes in one piece or several, and a piece that has rows is a delivery. The place of a
    piece in this sequence, counted whether or not the client has rows for it, is its slot.

    A member is a module of `lamina.streams.arrivals` and says when the deliveries of one client
    happen; its fields are its keys in the job's `federation.arrival`.
    """

    order: Order = "same"
    """same: the stream's order of tasks at every client; own: each client draws its own."""
    recurrences: int = 1
    """How often a client goes through its tasks, each time with rows of its own."""
    pieces: int = 1
    """In how many pieces the rows of a task come."""
    blurry: float = 0.0
    """The share of a client's rows of a task that come with the task before or after it. (The
    scenario's `blurry` moves rows between any tasks, before they are dealt out to clients.)"""
    joining: float = 0.0
    """The share of the clients that are not there from the start."""
    leaving: float = 0.0
    """The share of the clients that do not stay to the end."""

    def __post_init__(self) -> None:
        if self.order not in get_args(Order):
            raise unknown("federation.arrival.order", self.order, get_args(Order))
        for key in ("recurrences", "pieces"):
            if getattr(self, key) < 1:
                raise InputError(
                    f"federation.arrival.{key}: {getattr(self, key)} is too few "
                    "(allowed: 1, 2, ...)"
                )
        if not 0 <= self.blurry < 1:
            raise InputError(
                f"federation.arrival.blurry: {self.blurry!r} is no share "
                "(allowed: 0 or more, below 1)"
            )
        for key in ("joining", "leaving"):
            if not 0 <= getattr(self, key) <= 1:
                raise InputError(
                    f"federation.arrival.{key}: {getattr(self, key)!r} is no share "
                    "(allowed: 0 to 1)"
                )

    @abstractmethod
    def times(
        self, client: str, slots: NDArray[np.int64], joined: float, random: np.random.Generator
    ) -> NDArray[np.float64]:
        """When the deliveries of one client happen, [n], ascending and none negative.

        `slots` [n], ascending. Those before `joined` are missed; a process that starts with the
        client begins there.
        """

    @abstractmethod
    def last(self, client: str, slots: NDArray[np.int64]) -> float:
        """About when the last delivery happens at a client that is there from the start: the latest
        time to join."""

    @property
    def kind(self) -> str:
        """Its name in a job."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def settings(self) -> dict[str, Any]:
        """Its section of the job, as plain values."""
        return {"kind": self.kind, **asdict(self)}


def positive(key: str, value: float) -> None:
    """Raises InputError unless the number that `federation.arrival` gives for `key` is above 0 and
    finite."""
    if not 0 < value < float("inf"):
        raise InputError(f"federation.arrival.{key}: {value!r} is not allowed (allowed: above 0)")
