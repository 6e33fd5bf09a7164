"""A stopwatch for the work of a learner: each step, and each batch that a strategy looks at."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class Lap:
    """One piece of work."""

    kind: str
    """What it was: `step`, `step with exemplars`, `preview`, `review`."""
    rows: int
    """Rows of the batch."""
    seconds: float

    @property
    def is_step(self) -> bool:
        """Whether it was a step of the optimiser."""
        return self.kind.startswith("step")


@dataclass
class Stopwatch:
    """Takes the time of each piece of work, in order."""

    clock: Callable[[], float]
    """Seconds from any beginning."""
    laps: list[Lap] = field(default_factory=list)

    def timed(self, kind: str, rows: int, work: Callable[[], Result]) -> Result:
        """What `work` on so many rows returns."""
        start = self.clock()
        result = work()
        self.laps.append(Lap(kind, rows, self.clock() - start))
        return result
