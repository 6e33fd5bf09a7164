"""What a trial costs a sweep beyond its training.

    python tests/benchmarks/overhead.py [--out FILE]

Two sweeps of the same trivially small trials are run as whole commands, one of 8 and one of 40, so
that what does not grow with the number of trials (imports, Ray, the backbone) cancels. One host
trains them, so that what happens between two trials is seen and not hidden behind the training on
another host. The lane is the wall-clock seconds that a further trial adds, less the seconds that
trials say they spent in training and evaluation:

    overhead = ((wall_40 - wall_8) - (trained_40 - trained_8)) / 32

in seconds per trial; it has to stay below 0.3. A trial is a linear probe over two tasks, each of
which is reported, checkpointed and written to the ledger as in any sweep. `seconds_per_trial` in
the JSON is the same without the subtraction, of the last repetition: an upper bound that asks no
trial how long it took.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from harness import Lane, arguments, finish, lamina, seconds_of, stdout

LANE = "overhead"
TARGET = 0.3
REPEATS = 3
SIZES = (8, 40)
SMALL = (2, 6)


def main() -> None:
    """Run the two sweeps in turn, as often as is asked for."""
    given = arguments(str(__doc__), [LANE]).parse_args()
    sizes = SMALL if given.small else SIZES
    repeats = given.repeats or (1 if given.small else REPEATS)
    console = stdout()
    values = []
    details: dict[str, Any] = {"trials": list(sizes)}
    with TemporaryDirectory(prefix="lamina-benchmark-", ignore_cleanup_errors=True) as scratch:
        for turn in range(repeats):
            found = [measured(Path(scratch) / f"{turn}-{size}", size) for size in sizes]
            overhead, details["seconds_per_trial"] = slope(sizes, found)
            values.append(overhead)
            console.print(f"sweeps of {sizes}: (wall, trained) = {found}")
    lane = Lane(LANE, values, TARGET, at_least=False, unit="s", details=details)
    finish("Seconds per trial beyond training", [lane], [LANE], given.small, given.out)


def measured(folder: Path, num_trials: int) -> tuple[float, float]:
    """Seconds of a whole sweep, and those that its trials say they trained and evaluated."""
    folder.mkdir()
    (folder / "job.yaml").write_text(yaml.safe_dump(job_of(folder, num_trials)))
    seconds = seconds_of(lamina("sweep", "job.yaml"), folder / "log")
    rows = json.loads((folder / "leaderboard.json").read_text())["trials"]
    assert len(rows) == num_trials
    return seconds, sum(row["seconds"] for row in rows)


def slope(sizes: tuple[int, int], found: list[tuple[float, float]]) -> tuple[float, float]:
    """Seconds that a further trial adds beyond its training, and with it."""
    (few, fewer_trained), (many, more_trained) = found
    further = sizes[1] - sizes[0]
    added, trained = (many - few) / further, (more_trained - fewer_trained) / further
    return added - trained, added


def job_of(folder: Path, num_trials: int) -> dict[str, Any]:
    """A sweep over learning rates that has next to nothing to train."""
    rates = [1e-3 * (1 + number) for number in range(num_trials)]
    return {
        "name": "overhead",
        "stream": {"name": "assistant", "language": "en", "sentences_per_intent": 10},
        "scenario": {"kind": "class_incremental", "num_tasks": 2, "limit_per_class": 1},
        "backbone": {"name": "minilm"},
        "strategy": {"name": "linear_probe"},
        "training": {"epochs": 1, "batch_size": 32},
        "sweep": {"space": {"training.learning_rate": {"grid_search": rates}}},
        "hosts": {"count": 1},
        "tracking": {"enabled": False},
        "output_dir": str(folder),
    }


if __name__ == "__main__":
    main()
