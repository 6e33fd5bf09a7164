"""What every benchmark does in the same way: it times two sides in turn, takes medians, shows a
table and writes it as JSON."""

import json
import os
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

PROJECT = Path(__file__).parents[2]
"""The checkout that is measured."""
_LOG_WIDTH = 120
"""Columns of a table in a log."""
_TAIL = 40
"""Lines of a failed command's output that are shown."""


@dataclass(frozen=True)
class Lane:
    """A line of a benchmark's table, measured."""

    name: str
    """Its key in the JSON."""
    values: Sequence[float]
    """What each repetition gave."""
    target: float
    """What the median has to reach, or has to stay below."""
    at_least: bool = True
    """Whether more is better."""
    unit: str = "x"
    """What the values count."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What else is known of it, as plain JSON."""

    @property
    def ratio(self) -> float:
        """The median of the repetitions."""
        return median(self.values)

    @property
    def holds(self) -> bool:
        """Whether the median is on the right side of the target."""
        return self.ratio >= self.target if self.at_least else self.ratio <= self.target

    def record(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "ratio": self.ratio,
            "min": min(self.values),
            "max": max(self.values),
            "unit": self.unit,
            "target": f"{'at least' if self.at_least else 'at most'} {self.target:g}",
            "holds": self.holds,
            "repeats": len(self.values),
            **self.details,
        }


def records(lanes: Sequence[Lane], wanted: Collection[str], small: bool = False) -> dict[str, Any]:
    """What a benchmark writes: each lane by its name, and `passed`, whether every one of the
    `wanted` lanes was measured at its full size and holds."""
    holding = {lane.name for lane in lanes if lane.holds}
    passed = not small and holding.issuperset(wanted)
    return {lane.name: lane.record() for lane in lanes} | {"passed": passed}


def finish(
    title: str, lanes: Sequence[Lane], wanted: Collection[str], small: bool, out: Path | None
) -> None:
    """Show the lanes as a table, and write them to `out`."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("lane", "median", "min", "max", "target", "repeats", "holds"):
        table.add_column(heading, justify="left" if heading == "lane" else "right")
    for lane in lanes:
        numbers = (lane.ratio, min(lane.values), max(lane.values))
        target = f"{'>=' if lane.at_least else '<='} {lane.target:g} {lane.unit}"
        holds = "yes" if lane.holds else "no"
        shown = [f"{number:.3g}" for number in numbers]
        table.add_row(lane.name, *shown, target, str(len(lane.values)), holds)
    console = stdout()
    console.print(table)
    found = records(lanes, wanted, small)
    missing = [name for name in wanted if name not in found]
    if small or missing:
        why = "too small to count" if small else f"not measured: {', '.join(missing)}"
        console.print(f"passed: no ({why})")
    else:
        console.print(f"passed: {'yes' if found['passed'] else 'no'}")
    if out is not None:
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def stdout() -> Console:
    """Standard output, wide enough for a table where there is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_LOG_WIDTH)


def arguments(docstring: str, lanes: Sequence[str]) -> ArgumentParser:
    """A parser with what every benchmark understands."""
    parser = ArgumentParser(description=docstring.partition("\n\n")[0])
    parser.add_argument("--out", type=Path, help="write the lanes to this file, as JSON")
    parser.add_argument("--lanes", nargs="+", choices=lanes, default=lanes, metavar="LANE")
    parser.add_argument("--repeats", type=int, help="of every lane, instead of its own number")
    parser.add_argument("--small", action="store_true", help="a quick look: no table is passed")
    return parser


def seconds_of(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> float:
    """Wall-clock seconds of a whole command in a process of its own, on this checkout.

    Its working directory is that of `log`, which gets what it prints, and what is kept between
    sweeps; `environment` is what only this command is told. Raises SystemExit with the end of what
    it prints where the command fails.
    """
    start = time.perf_counter()
    with log.open("w", encoding="utf-8") as output:
        done = subprocess.run(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            env=own_environment()
            | {"LAMINA_CACHE": str(log.parent / "cache")}
            | dict(environment or {}),
        )
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL:]
        raise SystemExit("\n".join([f"failed: {' '.join(command)}", *tail]))
    return seconds


def lamina(*words: str) -> list[str]:
    """The command line `lamina ...`."""
    return [sys.executable, "-m", "lamina.cli", *words]


def alternately(
    first: Callable[[], Any], second: Callable[[], Any], repeats: int
) -> list[tuple[float, float]]:
    """CPU seconds that each of two callables takes, in turn, after a turn that is not counted.

    Both run in this process on one thread, so that CPU time is what either costs on a core,
    whatever else the machine does. Who begins changes with each turn.
    """
    torch.set_num_threads(1)
    sides = (first, second)
    pairs = []
    for turn in range(repeats + 1):
        seconds = [0.0, 0.0]
        for side in (0, 1) if turn % 2 == 0 else (1, 0):
            start = time.process_time()
            sides[side]()
            seconds[side] = time.process_time() - start
        pairs.append((seconds[0], seconds[1]))
    return pairs[1:]


def ratios(pairs: Sequence[tuple[float, float]]) -> list[float]:
    """How many times as long the first of each pair takes as the second."""
    return [first / second for first, second in pairs]


def own_environment() -> dict[str, str]:
    """The same for both sides: this checkout's Lamina, one thread, no hub and no other Ray."""
    inherited = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    path = [str(PROJECT / "platform"), *filter(None, [inherited.get("PYTHONPATH")])]
    ours = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path)}
    return inherited | ours
