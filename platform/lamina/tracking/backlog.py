"""What waits to be written: an ordered queue in which points of one run join each other."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Condition
from typing import Generic, TypeVar


@dataclass(frozen=True)
class Point:
    """A value of a metric."""

    key: str
    value: float
    time: int
    """Milliseconds since 1970."""
    step: int


@dataclass(frozen=True)
class Points:
    """Points of one run; None is the sweep's."""

    trial: str | None
    points: list[Point]


Action = TypeVar("Action")


class Backlog(Generic[Action]):
    """Actions and points, taken in the order they were put, but for one thing: points of a run join
    those of the same run that still wait, unless an action on that run came in between.

    Any thread may put; one thread takes.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._waiting: deque[Action | Points] = deque()
        self._joinable: dict[str | None, Points] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def put_action(self, trial: str | None, action: Action) -> None:
        with self._changed:
            assert not self._closed, "the tracker is closed"
            self._joinable.pop(trial, None)
            self._waiting.append(action)
            self._changed.notify()

    def put_points(self, trial: str | None, points: Sequence[Point]) -> None:
        with self._changed:
            assert not self._closed, "the tracker is closed"
            if trial in self._joinable:
                self._joinable[trial].points.extend(points)
                return
            self._joinable[trial] = Points(trial, list(points))
            self._waiting.append(self._joinable[trial])
            self._changed.notify()

    def close(self) -> None:
        """Say that nothing more will be put."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def take(self) -> Action | Points | None:
        """The next one, as soon as there is one; None when there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return None
            item = self._waiting.popleft()
            if isinstance(item, Points) and self._joinable.get(item.trial) is item:
                del self._joinable[item.trial]
            return item
