"""What a sweep on up to a thousand GPUs waits for, by simulation.

    python tests/benchmarks/simulate.py [--task 60] [--checkpoint 20] [--measured FILE]

Hosts claim trials, train their tasks, send a report and a checkpoint after each, and wait for the
store's word. Three things serve all of them, each one at a time, first come, first served: the
store's loop (claims, reports, the last word), its disk (checkpoints, brought to it one after the
other) and the driver with Ray Tune (a report of each task). The tracker writes behind them and
holds nobody up; it is said how far behind it ends.

What each costs is measured by `scale.py` on one machine (`--measured` its JSON; the numbers below
otherwise). Events are kept in a heap, times of tasks are drawn from a seed.
"""

import json
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from random import Random

from rich.table import Table

from harness import stdout

HOSTS = (8, 64, 256, 1000)
TRIALS_PER_HOST = 4
TASKS = 10
_SPREAD = 0.3
"""Standard deviation of the logarithm of a task's seconds."""
_DISK_MIB_PER_SECOND = 400.0
"""What one disk takes; hashing costs as much again and is in it."""


@dataclass(frozen=True)
class Costs:
    """Seconds, each of one thing at a time."""

    claim: float = 0.002
    report: float = 0.006
    finish: float = 0.004
    fsync: float = 0.010
    """Of a checkpoint, beside its bytes."""
    driver_per_report: float = 0.004
    driver_per_trial: float = 0.06
    tracker_per_trial: float = 0.10

    @staticmethod
    def measured(path: Path) -> "Costs":
        """From what `scale.py` wrote: CPU seconds of the store and the driver."""
        found = json.loads(path.read_text())
        sweep = next(each for name, each in found.items() if name.startswith("sweep"))
        tasks = sweep["calls"]["report"]["number"] / sweep["trials"]
        # The tracker is a thread of the store's process.
        tracker = found["writer"]["CPU seconds per trial"]
        store = max(sweep["store CPU seconds per trial"] - tracker, 0.01)
        calls = tasks + 2
        return Costs(
            claim=store / calls,
            report=store / calls,
            finish=store / calls,
            driver_per_report=0.0,
            driver_per_trial=sweep["driver CPU seconds per trial"],
            tracker_per_trial=tracker,
        )


@dataclass
class Server:
    """Serves one at a time."""

    name: str
    free_at: float = 0.0
    busy: float = 0.0
    waits: list[float] = field(default_factory=list)

    def serve(self, now: float, seconds: float) -> float:
        """When something is done that comes now."""
        begin = max(now, self.free_at)
        self.waits.append(begin - now)
        self.free_at = begin + seconds
        self.busy += seconds
        return self.free_at


class Simulation:
    """A sweep."""

    def __init__(
        self, hosts: int, stores: int, task: float, checkpoint: float, costs: Costs
    ) -> None:
        """`task` in seconds on a host, `checkpoint` in MiB; the hosts share `stores`."""
        self._costs = costs
        self._task = task
        self._write = costs.fsync + checkpoint / _DISK_MIB_PER_SECOND
        self._random = Random(0)
        self._order = count()
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self.loops = [Server("store's loop") for _ in range(stores)]
        self.disks = [Server("store's disk") for _ in range(stores)]
        self.driver = Server("driver and Ray Tune")
        self.tracker = Server("tracker")
        self._left = hosts * TRIALS_PER_HOST
        self._hosts = hosts
        self.trained = 0.0
        self.end = 0.0

    def run(self) -> None:
        """To its end."""
        for host in range(self._hosts):
            self._at(0.0, lambda now, host=host: self._claim(now, host))
        while self._events:
            now, _, act = heappop(self._events)
            self.end = max(self.end, now)
            act(now)

    @property
    def used(self) -> float:
        """The share of the hosts' time in which they train."""
        return self.trained / (self._hosts * self.end)

    def _at(self, when: float, act: Callable[[float], None]) -> None:
        heappush(self._events, (when, next(self._order), act))

    def _claim(self, now: float, host: int) -> None:
        if self._left == 0:
            return
        self._left -= 1
        # A thin trial is told of it; the host does not wait for that.
        self.driver.serve(now, self._costs.driver_per_trial)
        loop = self.loops[host % len(self.loops)]
        self._at(loop.serve(now, self._costs.claim), lambda then: self._learn(then, host, 0))

    def _learn(self, now: float, host: int, task: int) -> None:
        seconds = self._task * self._random.lognormvariate(-(_SPREAD**2) / 2, _SPREAD)
        self.trained += seconds
        self._at(now + seconds, lambda then: self._report(then, host, task))

    def _report(self, now: float, host: int, task: int) -> None:
        place = host % len(self.loops)
        arrived = self.loops[place].serve(now, self._costs.report)
        self._at(arrived, lambda then: self._written(then, host, task))

    def _written(self, now: float, host: int, task: int) -> None:
        written = self.disks[host % len(self.disks)].serve(now, self._write)
        self._at(written, lambda then: self._decided(then, host, task))

    def _decided(self, now: float, host: int, task: int) -> None:
        # Under a scheduler the store waits for Ray Tune's word.
        word = self.driver.serve(now, self._costs.driver_per_report)
        if task + 1 < TASKS:
            self._at(word, lambda then: self._learn(then, host, task + 1))
            return
        place = host % len(self.loops)
        self.tracker.serve(word, self._costs.tracker_per_trial)
        done = self.loops[place].serve(word, self._costs.finish)
        self._at(done, lambda then: self._claim(then, host))


def row(hosts: int, stores: int, task: float, checkpoint: float, costs: Costs) -> list[str]:
    """One line of the table."""
    made = Simulation(hosts, stores, task, checkpoint, costs)
    made.run()
    shares = {
        server.name: max(each.busy for each in each_kind) / made.end
        for each_kind in (made.loops, made.disks, [made.driver])
        for server in each_kind[:1]
    }
    fullest = max(shares, key=lambda name: shares[name])
    behind = max(made.tracker.free_at - made.end, 0.0)
    servers = (*made.loops, *made.disks, made.driver)
    waits = sorted(wait for each in servers for wait in each.waits)
    return [
        str(hosts),
        str(stores),
        f"{made.used:.1%}",
        *(f"{share:.1%}" for share in shares.values()),
        fullest,
        f"{waits[len(waits) * 99 // 100]:.2f}",
        f"{behind:.0f}",
    ]


def main() -> None:
    """The table."""
    parser = ArgumentParser(description=str(__doc__).partition("\n\n")[0])
    parser.add_argument("--task", type=float, default=60.0, help="seconds of a task on a host")
    parser.add_argument("--checkpoint", type=float, default=20.0, help="MiB")
    parser.add_argument("--measured", type=Path, help="what scale.py has written")
    given = parser.parse_args()
    costs = Costs() if given.measured is None else Costs.measured(given.measured)
    console = stdout()
    console.print(costs)
    table = Table(box=None, pad_edge=False)
    headings = ["hosts", "stores", "they train", "loop", "disk", "driver", "fullest"]
    for heading in (*headings, "p99 wait s", "tracker behind s"):
        table.add_column(heading, justify="left" if heading == "fullest" else "right")
    for hosts in HOSTS:
        for stores in dict.fromkeys((1, max(hosts // 8, 1))):
            table.add_row(*row(hosts, stores, given.task, given.checkpoint, costs))
    console.print(table)


if __name__ == "__main__":
    main()
