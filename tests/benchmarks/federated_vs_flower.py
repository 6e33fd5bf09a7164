"""Federated rounds on Lamina's hosts against Flower's simulation.

    python tests/benchmarks/federated_vs_flower.py [--out FILE] [--lanes LANE ...] [--small]

Both sides are whole commands in fresh processes, `peers/lamina_rounds.py` and
`peers/flower_rounds.py` (their docstrings say how they are written and why), on two cores: a Ray of
their own and two actors. They run in turn, Lamina first and Flower first by turns, with the same
clients (`peers/client_work.py`): a payload of 64 KiB down and up, and what a client does with it.
Federated averaging by rows on both sides. Lamina keeps its state on disk and writes a line of its
ledger after each round; Flower keeps nothing. That every round asked and aggregated all its clients
is checked on both sides, and so is what came out where that is known.

What is compared is rounds per second in the long run: from the end of the third round to that of
the last, on both sides, so neither its start nor its end counts.

| lane | clients | what has to be seen |
|---|---|---|
| `noop_100_of_100` | all 100 of 100, one is added to the payload | 8 times Flower's rounds/s |
| `lora_20_of_100` | 20 of 100, a LoRA is trained for some milliseconds | 1.5 times Flower's |
| `noop_100_of_10000` | 100 of 10,000 | 0.8 of Lamina's own of 100 of 100 |
| `cpu_per_client` | all 100 of 100 | at most 1 ms of CPU time for a client |

`cpu_per_client` is the CPU time of Lamina's driver and hosts in the timed rounds of
`noop_100_of_100`, per client and round, the client's own work included.

What else the JSON says of a lane: rounds per second of both sides in each repetition, and the
seconds of their commands besides the timed rounds (start, first rounds, end); of
`noop_100_of_10000` Flower's rounds per second, once; of `cpu_per_client` whose milliseconds they
are (`daemons` are Ray's own processes, which are not counted).

Flower comes from PyPI into an environment of its own in `$LAMINA_CACHE` or the user's cache, made
by the first run: its pins (an older Ray) differ from Lamina's.
"""

import subprocess
import sys
import venv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Literal

from harness import PROJECT, Lane, arguments, finish, seconds_of, stdout
from lamina.backbones.features import default_folder
from peers.client_work import Found, Plan

FLOWER = "1.42.0"
PEERS = Path(__file__).parent / "peers"
REPEATS = 3
SKIPPED = 3
"""Rounds before the timed ones."""

Side = Literal["lamina", "flower"]


@dataclass(frozen=True)
class Federation:
    """What both sides run."""

    work: str
    registered: int
    sampled: int
    lamina: int
    """Rounds of Lamina that are timed: some seconds."""
    flower: int
    """And of Flower."""

    def plan(self, side: Side) -> Plan:
        """For one side."""
        rounds = self.lamina if side == "lamina" else self.flower
        return Plan(self.work, self.registered, self.sampled, rounds, SKIPPED)


@dataclass(frozen=True)
class Run:
    """What a command came to."""

    rounds_per_second: float
    besides: float
    """Seconds of the command besides the timed rounds."""
    cpu: Mapping[str, float]
    """Milliseconds of CPU time for each client of a timed round, by whose they are."""


ALL = Federation("noop", registered=100, sampled=100, lamina=100, flower=20)
SOME = Federation("lora", registered=100, sampled=20, lamina=150, flower=40)
MANY = Federation("noop", registered=10_000, sampled=100, lamina=100, flower=3)
Key = tuple[Side, Federation]
Runs = Mapping[Key, Sequence[Run]]
"""By side and federation, a run of each repetition."""
NEEDS: dict[str, tuple[Key, ...]] = {
    "noop_100_of_100": (("lamina", ALL), ("flower", ALL)),
    "lora_20_of_100": (("lamina", SOME), ("flower", SOME)),
    "noop_100_of_10000": (("lamina", ALL), ("lamina", MANY)),
    "cpu_per_client": (("lamina", ALL),),
}
"""By lane, what has to be run for it."""


def main() -> None:
    """Measure the lanes that are asked for."""
    given = arguments(str(__doc__), list(NEEDS)).parse_args()
    console = stdout()
    repeats = given.repeats or (1 if given.small else REPEATS)
    wanted = dict.fromkeys(key for name in NEEDS if name in given.lanes for key in NEEDS[name])
    flower = environment(console.print) if any(side == "flower" for side, _ in wanted) else None
    pythons = {"lamina": Path(sys.executable), "flower": flower}

    def run(key: Key) -> Run:
        side, federation = key
        plan = federation.plan(side)
        if given.small:
            plan = replace(plan, rounds=min(plan.rounds, 5))
        python = pythons[side]
        assert python is not None, "Flower has its environment where it is run"
        found = measured(side, plan, python)
        asked = f"{plan.sampled} of {plan.registered:,}, {plan.work}"
        console.print(
            f"{asked}: {side} {found.rounds_per_second:.2f} rounds/s, "
            f"and {found.besides:.1f} s besides"
        )
        return found

    runs: dict[Key, list[Run]] = {key: [] for key in wanted}
    for turn in range(repeats):
        for key in list(wanted)[:: -1 if turn % 2 else 1]:
            runs[key].append(run(key))
    if flower is not None and "noop_100_of_10000" in given.lanes and not given.small:
        runs["flower", MANY] = [run(("flower", MANY))]
    lanes = [LANES[name](runs) for name in NEEDS if name in given.lanes]
    title = f"Lamina's rounds against Flower {FLOWER}'s simulation"
    finish(title, lanes, list(NEEDS), given.small, given.out)


def against_flower(name: str, federation: Federation, target: float) -> Callable[[Runs], Lane]:
    """How many times as many rounds per second as Flower's."""

    def lane(runs: Runs) -> Lane:
        own, theirs = runs["lamina", federation], runs["flower", federation]
        values = [
            mine.rounds_per_second / yours.rounds_per_second
            for mine, yours in zip(own, theirs, strict=True)
        ]
        details = {"lamina": speeds(own), "flower": speeds(theirs)}
        return Lane(name, values, target, details=details)

    return lane


def many(runs: Runs) -> Lane:
    """What is left of the rounds per second with a hundred times as many registered."""
    few, more = runs["lamina", ALL], runs["lamina", MANY]
    values = [
        mine.rounds_per_second / base.rounds_per_second
        for mine, base in zip(more, few, strict=True)
    ]
    details = {"lamina": speeds(more), "lamina_100_of_100": speeds(few)}
    if ("flower", MANY) in runs:
        details["flower"] = speeds(runs["flower", MANY])
    return Lane("noop_100_of_10000", values, 0.8, details=details)


def cpu(runs: Runs) -> Lane:
    """Milliseconds of CPU time for a client."""
    spent = [each.cpu for each in runs["lamina", ALL]]
    values = [each["driver"] + each["hosts"] for each in spent]
    by_whose = {name: median(each[name] for each in spent) for name in spent[0]}
    return Lane("cpu_per_client", values, 1, at_least=False, unit="ms", details=by_whose)


LANES: dict[str, Callable[[Runs], Lane]] = {
    "noop_100_of_100": against_flower("noop_100_of_100", ALL, 8),
    "lora_20_of_100": against_flower("lora_20_of_100", SOME, 1.5),
    "noop_100_of_10000": many,
    "cpu_per_client": cpu,
}


def speeds(runs: Sequence[Run]) -> dict[str, Any]:
    """What is written of a side."""
    return {
        "rounds_per_second": [each.rounds_per_second for each in runs],
        "seconds_besides": [each.besides for each in runs],
    }


def measured(side: Side, plan: Plan, python: Path) -> Run:
    """A side's run of a plan, as a command of its own."""
    with TemporaryDirectory(prefix="lamina-benchmark-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        plan.write(folder)
        command = [str(python), str(PEERS / f"{side}_rounds.py"), str(folder)]
        quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_HOME": str(folder / "flwr")}
        seconds = seconds_of(command, folder / "log", quiet if side == "flower" else None)
        found = Found.read(folder)
    check(side, plan, found)
    timed = found.ends[-1] - found.ends[plan.skipped - 1]
    clients = plan.rounds * plan.sampled
    spent = {name: 1000 * each / clients for name, each in (found.cpu or {}).items()}
    return Run(plan.rounds / timed, seconds - timed, spent)


def check(side: Side, plan: Plan, found: Found) -> None:
    """Raises SystemExit unless every round was one of all its clients, and what came out is what
    comes out."""
    if found.updates != [plan.sampled] * plan.all_rounds:
        raise SystemExit(f"{side}: rounds of {sorted(set(found.updates))} updates ({plan})")
    if plan.work == "noop" and abs(found.last / plan.all_rounds - 1) > 1e-4:
        raise SystemExit(f"{side}: {found.last} came out of {plan.all_rounds} rounds ({plan})")
    if plan.work == "lora" and not found.losses[-1] < found.losses[0]:
        raise SystemExit(f"{side}: nothing was learned, losses {found.losses} ({plan})")


def environment(say: Callable[[str], None]) -> Path:
    """The interpreter that has Flower, in an environment that is made where there is none."""
    folder = default_folder().parent / "benchmarks" / f"flower-{FLOWER}"
    python = folder / "bin" / "python"
    ready = folder / ".ready"
    if not ready.exists():
        say(f"making an environment for Flower {FLOWER} in {folder}")
        venv.create(folder, clear=True, with_pip=True)
        pins = (PROJECT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        (torch,) = [pin for pin in pins if pin.startswith("torch==")]
        # Lamina's torch, first and by itself: Flower takes what is there.
        for wanted in (torch, f"flwr[simulation]=={FLOWER}"):
            install = ["-m", "pip", "install", "-qq", "--disable-pip-version-check", wanted]
            subprocess.run([str(python), *install], check=True)
        ready.touch()
    return python


if __name__ == "__main__":
    main()
