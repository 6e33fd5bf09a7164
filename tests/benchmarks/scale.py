"""What trials and clients cost that train nothing.

    python tests/benchmarks/scale.py [--trials 1000] [--clients 10000] [--tasks 1000] [--out FILE]

A sweep is the whole command: the plan, Ray Tune, the store, MLflow and pictures. Only its host does
not train: it learns the first trial for real, and then hands in that trial's reports, checkpoints
and bundle as those of every other, `c` trials at a time. Measured are

- seconds per trial of the whole command, and of its end, when all is learned and the tracker
  catches up;
- each call of the store that a host makes: how many in a second, median, 95th and 99th percentile;
- the memory of the driver and of the store, at a quarter and at the end: what a trial adds; and
  their CPU seconds for each trial, which a busy machine does not change much;
- bytes on the disk per trial.

`scheduler` is a sweep of a tenth of the trials under task halving. `writer` is the tracker by
itself: events of as many trials, told to MLflow in this process. `stream` is one trial with so many
tasks; its checkpoints must not pile up. `clients` are rounds of a federation whose clients add one
to every number of a 64 KiB state, all of them in every round.
"""

import json
import os
import subprocess
import sys
import threading
import time
from argparse import ArgumentParser, Namespace
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
import yaml
from rich.table import Table

from chaos import tiny_bert
from harness import PROJECT, own_environment, stdout

CONCURRENT = (1, 8, 32)
TASKS = 6
_FOUND = "LAMINA_SCALE"
"""Where the host writes what its calls took."""
_LOOK_SECONDS = 1.0
_ROUNDS = 3
MIB = 2**20


def no_op_loop(settings: Any) -> None:
    """What a host does in place of `host_loop`."""
    import torch

    from lamina.orchestration.hosts.claimed_trials import left_behind
    from lamina.orchestration.hosts.heartbeat import heartbeat
    from lamina.orchestration.hosts.resident_backbones import ResidentBackbones
    from lamina.training.checkpoint import checkpoint_of

    torch.set_num_threads(1)
    seconds: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        seconds[name].append(time.perf_counter() - begin)

    store = settings.store
    concurrent = settings.hosts.cohort
    with heartbeat(store, settings.name):
        store.arrive(settings.name, "nowhere", os.getpid())
        held: dict[str, Any] = {}
        learned: list[tuple[dict[str, Any], dict[str, bytes]]] = []
        bundle: tuple[str, dict[str, bytes]] | None = None
        pending: dict[Any, tuple[str, int, float]] = {}
        number = 0
        while True:
            while len(held) < concurrent:
                with timed("claim"):
                    claim = store.claim(settings.name, "scale", list(held), 1)
                if claim is None:
                    break
                if bundle is None:
                    backbones = ResidentBackbones(
                        torch.device("cpu"), settings.hosts, lambda _, build: build()
                    )
                    learner = backbones.learner(claim.mapping)
                    for report in learner.learn():
                        learned.append((asdict(report), checkpoint_of(learner)))
                    bundle = left_behind(learner, claim.mapping, claim.trial, claim.name)
                held[claim.trial] = claim
                number += 1
                first = len(store.reports(claim.trial))
                pending |= _send(store, settings.name, claim.trial, learned, first, number)
            if not held:
                break
            import ray

            (ready, *_), _ = ray.wait(list(pending), num_returns=1)
            trial, task, begin = pending.pop(ready)
            goes_on = ray.get(ready)
            seconds["report"].append(time.perf_counter() - begin)
            if goes_on and task + 1 < len(learned):
                pending |= _send(store, settings.name, trial, learned, task + 1, number)
                continue
            del held[trial]
            if task + 1 == len(learned):
                with timed("finish"):
                    store.finish(trial, *bundle)
        Path(os.environ[_FOUND]).write_text(json.dumps(seconds))


def _send(
    store: Any, host: str, trial: str, learned: list[Any], task: int, number: int
) -> dict[Any, tuple[str, int, float]]:
    """Report a task, with a checkpoint that is nobody else's."""
    import torch

    from lamina.training.checkpoint import pack

    report, parts = learned[task]
    own = pack({"number": torch.tensor([number, task])})
    begin = time.perf_counter()
    return {store.report(trial, host, report, {**parts, "own": own}): (trial, task, begin)}


def job_of(folder: Path, given: Namespace) -> dict[str, Any]:
    """A sweep of so many trials that have next to nothing to train."""
    rates = [1e-3 * (1 + number) for number in range(given.trials)]
    scheduler = {"scheduler": {"name": "task_halving", "costs": ["forgetting"]}}
    return {
        "name": "scale",
        "stream": {"name": "assistant", "language": "en", "sentences_per_intent": 10},
        "scenario": {"kind": "class_incremental", "num_tasks": TASKS, "limit_per_class": 2},
        "backbone": {"name": str(tiny_bert(folder.parent))},
        "adapter": {"kind": "lora", "rank": 4},
        "strategy": {"name": "finetune"},
        "training": {"epochs": 1, "batch_size": 32},
        "sweep": {
            "space": {"training.learning_rate": {"grid_search": rates}},
            **(scheduler if given.scheduled else {}),
        },
        "hosts": {"count": 1, "cohort": given.concurrent},
        "output_dir": str(folder / "out"),
    }


def sweep(folder: Path, given: Namespace) -> None:
    """The command, in this process. Writes what it took to `found.json`."""
    from click.testing import CliRunner

    from lamina.cli import main as command
    from lamina.orchestration.hosts import host

    host.host_loop = no_op_loop
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job_of(folder, given)))
    samples: list[tuple[float, ...]] = []
    over = threading.Event()
    thread = threading.Thread(target=_sample, args=(folder / "out", samples, over), daemon=True)
    begin = time.perf_counter()
    thread.start()
    done = CliRunner().invoke(command, ["sweep", str(path)])
    seconds = time.perf_counter() - begin
    over.set()
    thread.join()
    (folder / "printed.txt").write_text(done.output)
    if done.exit_code != 0:
        raise SystemExit(done.output[-3000:])
    (folder / "found.json").write_text(json.dumps({"seconds": seconds, "samples": samples}))


def _sample(output_dir: Path, samples: list[Any], over: threading.Event) -> None:
    """Take down, every second: finished trials, MiB of the driver and of the store, and the CPU
    seconds of either."""
    driver = psutil.Process()
    while not over.wait(_LOOK_SECONDS):
        finished = len(list(output_dir.glob("trials/*/bundle")))
        with psutil_silent():
            for process in driver.children(recursive=True):
                if "ray::StoreActor" in " ".join(process.cmdline()[:1]):
                    memory = [each.memory_info().rss / MIB for each in (driver, process)]
                    seconds = [sum(each.cpu_times()[:2]) for each in (driver, process)]
                    samples.append((finished, *memory, *seconds))


def measured_sweep(folder: Path, trials: int, concurrent: int, scheduled: bool) -> dict[str, Any]:
    """Run `sweep` in a process of its own."""
    folder.mkdir()
    calls = folder / "calls.json"
    words = ["--trials", str(trials), "--concurrent", str(concurrent), "--inside", str(folder)]
    command = [sys.executable, "-W", "ignore", __file__, *words, *["--scheduled"] * scheduled]
    environment = {**own_environment(), _FOUND: str(calls), "LAMINA_CACHE": str(folder / "cache")}
    subprocess.run(command, check=True, env=environment, cwd=PROJECT)
    found = json.loads((folder / "found.json").read_text())
    samples = found["samples"]
    quarter = next((each for each in samples if each[0] >= trials / 4), samples[-1])
    last = max(samples, key=lambda each: each[0])
    full = next((at for at, each in enumerate(samples) if each[0] >= last[0]), len(samples))
    added = max(last[0] - quarter[0], 1)
    size = sum(path.stat().st_size for path in (folder / "out").rglob("*") if path.is_file())
    return {
        "trials": trials,
        "concurrent": concurrent,
        "seconds": found["seconds"],
        "seconds per trial": found["seconds"] / trials,
        "seconds of the end": (len(samples) - full) * _LOOK_SECONDS,
        "driver MiB": max(each[1] for each in samples),
        "store MiB": max(each[2] for each in samples),
        # Up to the last trial: what is drawn after it takes memory once.
        "driver MiB per 1000 trials": 1000 * (last[1] - quarter[1]) / added,
        "store MiB per 1000 trials": 1000 * (last[2] - quarter[2]) / added,
        "driver CPU seconds per trial": (samples[-1][3] - quarter[3]) / added,
        "store CPU seconds per trial": (samples[-1][4] - quarter[4]) / added,
        "disk MiB per trial": size / MIB / trials,
        "calls": {name: quantiles(each) for name, each in json.loads(calls.read_text()).items()},
    }


def quantiles(seconds: list[float]) -> dict[str, float]:
    """Of calls that were timed."""
    p50, p95, p99 = np.quantile(seconds, [0.5, 0.95, 0.99])
    return {"number": len(seconds), "p50 ms": p50 * 1e3, "p95 ms": p95 * 1e3, "p99 ms": p99 * 1e3}


def report_of(task: int, num_tasks: int) -> dict[str, Any]:
    """A report of about the size of a real one."""
    row = [0.5] * (task + 1) + [None] * (num_tasks - task - 1)
    names = ("average_accuracy", "forgetting", "macro_f1", "backward_transfer", "pooled_accuracy")
    metrics = {f"{part}/{name}": 0.1 for part in ("validation", "test") for name in names}
    return {
        "task": task,
        "task_name": f"task {task + 1}",
        "num_tasks": num_tasks,
        "validation": row,
        "test": row,
        "metrics": {**metrics, **{f"cost/{number}": 1.0 for number in range(20)}},
        "done": task == num_tasks - 1,
    }


def writer(folder: Path, given: Namespace) -> dict[str, Any]:
    """Tell MLflow's tracker of trials, in this process."""
    from lamina.orchestration.store.event_recorder import EventRecorder, TrialReports
    from lamina.tracking.trackers import make_tracker

    folder.mkdir()
    tracker = make_tracker(folder, True, None, "scale", "scale", "run")
    recorder = EventRecorder(tracker, folder / "trials")
    reports = [report_of(task, TASKS) for task in range(TASKS)]
    seconds = defaultdict(list)
    before = psutil.Process().memory_info().rss
    begin, cpu_before = time.perf_counter(), time.process_time()

    def tell(event: Mapping[str, Any], about: list[TrialReports]) -> None:
        start = time.perf_counter()
        recorder.record(event, about)
        seconds[event["event"]].append(time.perf_counter() - start)

    tell({"event": "sweep_started", "trial": None, "name": "scale", "params": {}}, [])
    known = []
    of_all = {key: each for key, each in job_of(folder, given).items() if key != "sweep"}
    for number in range(given.trials):
        trial = f"trial-{number:06d}"
        mapping = {**of_all, "seed": number}
        tell({"event": "submitted", "trial": trial, "name": trial, "mapping": mapping}, [])
        for report in reports:
            tell({"event": "reported", "trial": trial, "report": report}, [])
        known.append(TrialReports(trial, trial, reports))
        tell({"event": "finished", "trial": trial}, known[-1:])
    tell({"event": "sweep_finished", "trial": None, "status": "finished"}, known)
    recorder.close()
    took = time.perf_counter() - begin
    cpu = time.process_time() - cpu_before
    return {
        "trials": given.trials,
        "seconds per trial": took / given.trials,
        "CPU seconds per trial": cpu / given.trials,
        "MiB": (psutil.Process().memory_info().rss - before) / MIB,
        "calls": {name: quantiles(each) for name, each in seconds.items()},
    }


def stream(folder: Path, tasks: int) -> dict[str, Any]:
    """One trial with so many tasks, in the store's own class: its calls at the beginning and at the
    end, and its checkpoints on the disk."""
    from lamina.orchestration.store.shared_store import SharedStore

    store = SharedStore(folder / "store", "session")
    store.submit("trial", "trial", {})
    store.claim("host", "scale")
    seconds = []
    most = 0
    for task in range(tasks):
        parts = {"adapter": os.urandom(100_000), "memory": os.urandom(100_000)}
        begin = time.perf_counter()
        store.report("trial", "host", report_of(task, tasks), parts)
        store.last_report("trial")
        seconds.append(time.perf_counter() - begin)
        most = max(most, len(list((folder / "store" / "payloads").iterdir())))
    ledger = sum(path.stat().st_size for path in (folder / "store").glob("ledger*"))
    return {
        "tasks": tasks,
        "first": quantiles(seconds[: tasks // 10]),
        "last": quantiles(seconds[-tasks // 10 :]),
        "most payloads": most,
        "ledger MiB": ledger / MIB,
        "MiB": psutil.Process().memory_info().rss / MIB,
    }


def clients(folder: Path, number: int) -> dict[str, Any]:
    """Rounds that ask all of so many clients, in a process of their own; the driver's memory, with
    what it sees of Ray's object store and without."""
    folder.mkdir()
    plan = {"work": "noop", "registered": number, "sampled": number}
    rounds = {"rounds": _ROUNDS, "skipped": 1}
    (folder / "plan.json").write_text(json.dumps({**plan, **rounds}))
    peers = PROJECT / "tests" / "benchmarks" / "peers"
    command = [sys.executable, "-W", "ignore", str(peers / "lamina_rounds.py"), str(folder)]
    most = own = 0.0
    with subprocess.Popen(command, env=own_environment(), cwd=PROJECT) as driver:
        watched = psutil.Process(driver.pid)
        while driver.poll() is None:
            with psutil_silent():
                seen = watched.memory_full_info()
                most, own = max(most, seen.rss / MIB), max(own, seen.uss / MIB)
            time.sleep(_LOOK_SECONDS / 4)
    if driver.returncode != 0:
        raise SystemExit(f"{command} failed")
    found = json.loads((folder / "found.json").read_text())
    ends = found["ends"]
    each = [after - before for before, after in pairwise(ends)]
    return {
        "clients": number,
        "seconds per round": float(np.median(each)),
        "ms per client": float(np.median(each)) / number * 1e3,
        "driver MiB": most,
        "its own MiB": own,
    }


@contextmanager
def psutil_silent() -> Iterator[None]:
    """What has just ended has no memory."""
    try:
        yield
    except psutil.Error:
        return


def main() -> None:
    """Measure, and show it."""
    parser = ArgumentParser(description=str(__doc__).partition("\n\n")[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--tasks", type=int, default=1000)
    parts = ["sweep", "scheduler", "writer", "stream", "clients"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--concurrent", type=int, help="only so many trials at a time")
    parser.add_argument("--scheduled", action="store_true", help="with --concurrent: halved")
    parser.add_argument("--out", type=Path, help="write what was measured to this file, as JSON")
    parser.add_argument("--inside", type=Path, help="a folder: be the measured command, in it")
    given = parser.parse_args()
    if given.inside is not None:
        sweep(given.inside, given)
        return
    found: dict[str, Any] = {}
    with TemporaryDirectory(prefix="scale-", ignore_cleanup_errors=True) as place:
        folder = Path(place)
        tiny_bert(folder)
        if "sweep" in given.parts:
            for concurrent in [given.concurrent] if given.concurrent else CONCURRENT:
                name = f"sweep, {concurrent} at a time"
                path = folder / f"sweep-{concurrent}"
                found[name] = measured_sweep(path, given.trials, concurrent, given.scheduled)
                show(name, found[name])
        if "scheduler" in given.parts:
            few = max(given.trials // 10, 8)
            found["scheduler"] = measured_sweep(folder / "scheduler", few, 8, True)
            show("scheduler", found["scheduler"])
        if "writer" in given.parts:
            found["writer"] = writer(folder / "writer", given)
            show("writer", found["writer"])
        if "stream" in given.parts:
            found["stream"] = stream(folder / "stream", given.tasks)
            show("stream", found["stream"])
        if "clients" in given.parts:
            found["clients"] = clients(folder / "clients", given.clients)
            show("clients", found["clients"])
    if given.out is not None:
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def show(name: str, found: Mapping[str, Any]) -> None:
    """One part: its numbers, and a line for each call."""
    console = stdout()
    plain = {key: each for key, each in found.items() if not isinstance(each, dict)}
    shown = ", ".join(f"{key} {each:.4g}" for key, each in plain.items())
    console.print(f"{name}: {shown}", soft_wrap=True)
    calls = found.get("calls") or {key: each for key, each in found.items() if key not in plain}
    if calls:
        table = Table(box=None, pad_edge=False)
        for heading in ("call", *next(iter(calls.values()))):
            table.add_column(heading, justify="left" if heading == "call" else "right")
        for call, numbers in calls.items():
            table.add_row(call, *(f"{each:.4g}" for each in numbers.values()))
        console.print(table)


if __name__ == "__main__":
    main()
