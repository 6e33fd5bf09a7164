"""Kills at random moments, and what is left after them.

    python tests/benchmarks/chaos.py [--kills 50] [--seed 0] [--kinds sweep federation language]

Each kind of run is made once undisturbed. Then it is made again and again, each time with five
kills: after how many tasks (or rounds), how long after that, and of whom, is drawn from the seed. A
command that does not survive is given again, as a person would. A run passes if it ends, and if the
bytes of the adapters and the accuracy matrix R of every trial are those of the undisturbed run.

The first table has a line for each kill: whether the command went on by itself or was given again,
and the seconds until the next task (or round) was on the disk; the second one for each victim.
`lost` of a run are the seconds that it took longer than the undisturbed one, for all its kills
together.

The victims: the host of a trial (killed; or stopped for good), the store (the same), a thin trial,
Ray Train's controller, the driver (SIGKILL, SIGTERM, SIGINT), the raylet, GCS, MLflow's server,
and, on two nodes, the raylet of the second, which in every other run comes back 15 seconds later.
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import torch
import yaml
from rich.table import Table
from transformers import AutoTokenizer, BertConfig, BertModel

from harness import PROJECT, lamina, own_environment, stdout
from lamina.backbones.locate import locate
from lamina.bundles.bundle import LEARNER

sys.path.insert(0, str(PROJECT / "tests" / "helpers"))
from language_models import write_model

_KILLS_PER_RUN = 5
_MARK = "LAMINA_CHAOS"
"""The variable of the environment that tells the processes of a run from all others."""
_MOST_AGAIN = 10
"""So often may a command be given again in one run."""
_MOST_SECONDS = 900.0
"""A run that takes longer hangs."""
_VICTIM_SECONDS = 20.0
"""So long a victim that is not there is waited for; then another is drawn."""
_BACK_SECONDS = 15.0
"""After which a second node comes back, in every other run."""
_LOOK_SECONDS = 0.05
_LONGEST_DELAY = 3.0
"""Seconds after a task at which a victim is hit, at most; ten before the first task, as what is
there then comes one by one."""

NODES = """
import json, sys
from ray.cluster_utils import Cluster

def add():
    node = nodes.add_node(num_cpus=1, node_ip_address="127.0.0.2")
    (raylet,) = node.all_processes["raylet"]
    print(json.dumps({"address": nodes.address, "raylet": raylet.process.pid}), flush=True)

nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
add()
for line in sys.stdin:
    add()
"""
"""A program that keeps two nodes up, and adds one for every line it is told."""


@dataclass(frozen=True)
class Victim:
    """Whom a kill hits, and how."""

    name: str
    found: Callable[["Run"], Sequence[int]]
    """Its processes."""
    how: int = signal.SIGKILL
    nodes: int = 1
    """On so many nodes."""


def titled(*titles: str) -> Callable[["Run"], Sequence[int]]:
    """Processes of a run whose command line holds one of these words."""
    return lambda run: [
        process for process, words in run.processes() if any(each in words for each in titles)
    ]


HOST = ("ray::RayTrainWorker", "ray::_RayTrainWorker", "ray::_Host")
VICTIMS = (
    Victim("host", titled(*HOST)),
    Victim("host, stopped", titled(*HOST), signal.SIGSTOP),
    Victim("store", titled("ray::StoreActor")),
    Victim("store, stopped", titled("ray::StoreActor"), signal.SIGSTOP),
    Victim("thin trial", titled("ray::ResourceTrainable", "ray::ThinTrial")),
    Victim("controller", titled("ray::TrainController")),
    Victim("driver", lambda run: run.driver()),
    Victim("driver, SIGTERM", lambda run: run.driver(), signal.SIGTERM),
    Victim("driver, SIGINT", lambda run: run.driver(), signal.SIGINT),
    Victim("raylet", titled("raylet/raylet")),
    Victim("GCS", titled("gcs_server")),
    Victim("MLflow's server", lambda run: run.server.process()),
    Victim("second node", lambda run: run.nodes.raylet() if run.nodes else [], nodes=2),
)
ONLY_IN_SWEEPS = {"store", "store, stopped", "thin trial", "controller"}


@dataclass(frozen=True)
class Kind:
    """A kind of run."""

    name: str
    command: str
    mapping: Mapping[str, Any]
    progress: str
    """The files that say how far it is, below its folder."""

    def victims(self) -> list[Victim]:
        """Those that it has."""
        is_sweep = self.command == "sweep"
        return [each for each in VICTIMS if is_sweep or each.name not in ONLY_IN_SWEEPS]

    def outcome(self, folder: Path) -> dict[str, str]:
        """What must be the same: a digest for each file of tensors, and of R. Not what a learner
        has counted, as it counts seconds too; and not R of a trial that the scheduler has stopped,
        which may have learned a task more before it heard of it."""
        found = {}
        for path in sorted(folder.rglob("*.safetensors")):
            name = path.relative_to(folder)
            is_left = name.parts[0] not in ("store", "rounds", "clients", "shared_models")
            if is_left and name.name != LEARNER:
                found[str(name)] = sha256(path.read_bytes()).hexdigest()
        for bundle in sorted(folder.glob("trials/*/bundle")):
            path = bundle.with_name("accuracy_matrix.json")
            found[str(path.relative_to(folder))] = sha256(path.read_bytes()).hexdigest()
        for path in folder.glob("federated_result.json"):
            metrics = json.loads(path.read_text())["metrics"]
            asked = {key: each for key, each in metrics.items() if key.startswith(("test/", "val"))}
            found["R"] = sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        return found


@dataclass
class Kill:
    """One kill, and what came of it."""

    run: int
    kind: str
    victim: str
    after: int
    """So many tasks or rounds are on the disk."""
    delay: float
    """And so many seconds have passed since."""
    moment: float | None = None
    """Seconds after the run began; None: the run was over before."""
    again: bool = False
    """Whether the command was given again."""
    until_next: float | None = None
    """Seconds until the next task was on the disk; None: none was left."""


class Server:
    """MLflow's tracking server, that is killed and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Return when it answers; at once where it runs."""
        if self._process is not None and self._process.poll() is None:
            return
        # Its main process was killed; the others of its group were not.
        self.end()
        uri = f"sqlite:///{self._folder}/mlflow.db"
        words = [
            *("-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--backend-store-uri", uri, "--workers", "1"),
            *("--artifacts-destination", f"{self._folder}/artifacts"),
        ]
        with (self._folder / "mlflow.txt").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *words], stdout=log, stderr=log, start_new_session=True
            )
        for _ in range(3000):
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            time.sleep(0.1)
        said = (self._folder / "mlflow.txt").read_text()[-3000:]
        raise SystemExit(f"MLflow's server does not answer: {said}")

    def process(self) -> list[int]:
        """Its main process and its worker's."""
        if self._process is None or self._process.poll() is not None:
            return []
        return [self._process.pid]

    def end(self) -> None:
        """End it with all that it has started."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


class Nodes:
    """Ray on two nodes with addresses of their own, in a process beside the driver's."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", NODES],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**environment, "RAY_AUTH_MODE": "disabled"},
            text=True,
            start_new_session=True,
        )
        self.address = ""
        self._raylet = 0
        self._hear()

    def raylet(self) -> list[int]:
        """Of the second node."""
        return [self._raylet] if psutil.pid_exists(self._raylet) else []

    def add(self) -> None:
        """Another second node."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._hear()

    def _hear(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                said = json.loads(line)
                self.address, self._raylet = said["address"], said["raylet"]
                return
        raise SystemExit("the nodes did not start")


class Run:
    """A command that is given again until it has done what it is to do."""

    def __init__(
        self, kind: Kind, folder: Path, server: Server, cache: Path, names: Sequence[str] = ()
    ) -> None:
        """`names` are those of the victims: where MLflow's server is one, it is written to; where a
        second node is, there is one."""
        self.kind = kind
        self.folder = folder / "out"
        self.server = server
        self.times_given = 0
        self._folder = folder
        self._mark = secrets.token_hex(8)
        self._driver: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        mapping = {**kind.mapping, "output_dir": str(self.folder)}
        self._is_tracked = "MLflow's server" in names
        tracked = {"mlflow_uri": server.uri}
        mapping["tracking"] = tracked if self._is_tracked else {"enabled": False}
        (folder / "job.yaml").write_text(yaml.safe_dump(mapping))
        self._environment = {**own_environment(), _MARK: self._mark, "LAMINA_CACHE": str(cache)}
        self._temporary = TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
        self._environment["RAY_TMPDIR"] = self._temporary.name
        self.nodes: Nodes | None = None
        if "second node" in names:
            self.nodes = Nodes(self._environment)
            self._environment |= {
                "RAY_ADDRESS": self.nodes.address,
                "RAY_AUTH_MODE": "disabled",
            }

    def give(self) -> None:
        """Give the command, again if it was given before."""
        self.times_given += 1
        if self._is_tracked:
            self.server.start()
        words = lamina(self.kind.command, str(self._folder / "job.yaml"))
        with (self._folder / "log.txt").open("ab") as log:
            self._driver = subprocess.Popen(
                words, stdout=log, stderr=log, env=self._environment, start_new_session=True
            )

    def driver(self) -> list[int]:
        """The command's own process."""
        running = self._driver is not None and self._driver.poll() is None
        return [self._driver.pid] if running and self._driver is not None else []

    @property
    def ended(self) -> int | None:
        """The exit code, if the command has ended."""
        assert self._driver is not None
        return self._driver.poll()

    def processes(self) -> Iterator[tuple[int, str]]:
        """All processes of the run that have not ended, with their command lines."""
        for process in psutil.process_iter(["environ", "cmdline", "status"]):
            environ = process.info["environ"] or {}
            if environ.get(_MARK) == self._mark and process.info["status"] != psutil.STATUS_ZOMBIE:
                yield process.pid, " ".join(process.info["cmdline"] or [])

    def progress(self) -> int:
        """Changes with every task or round that is on the disk."""
        return hash(tuple(sorted(map(str, self.folder.glob(self.kind.progress)))))

    def clean(self) -> int:
        """End what is left. Returns how many processes the run has left behind by itself."""
        left = [each for each in self.processes() if self.nodes is None]
        for _ in range(3):
            for process, _ in self.processes():
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.2)
        self._temporary.cleanup()
        return len(left)


class Watch:
    """How often a run has brought something to the disk."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._last = run.progress()
        self.times = [time.monotonic()]
        """When it began, and when it brought something for the first, second ... time."""

    @property
    def count(self) -> int:
        """So often."""
        return len(self.times) - 1

    def look(self) -> None:
        """To be called again and again."""
        now = self._run.progress()
        if now != self._last:
            self._last = now
            self.times.append(time.monotonic())


def disturbed(run: Run, kills: Sequence[Kill], random: Random) -> float:
    """Make a run with these kills. Returns its seconds. Raises SystemExit when it does not end."""
    victims = {each.name: each for each in VICTIMS}
    pending = sorted(kills, key=lambda each: (each.after, each.delay))
    open_kill: Kill | None = None
    at_kill = 0
    begin = last_kill = time.monotonic()
    back_at: float | None = None
    run.give()
    watch = Watch(run)
    while True:
        now = time.monotonic()
        if now - begin > _MOST_SECONDS:
            raise SystemExit(f"run {run.folder} hangs after {[each.victim for each in kills]}")
        watch.look()
        if open_kill is not None and open_kill.moment is not None and watch.count > at_kill:
            open_kill.until_next = watch.times[at_kill + 1] - begin - open_kill.moment
            open_kill = None
        if back_at is not None and now > back_at and run.nodes is not None:
            back_at = None
            run.nodes.add()
        code = run.ended
        if code == 0:
            return time.monotonic() - begin
        if code is not None:
            if run.times_given > _MOST_AGAIN:
                raise SystemExit(f"run {run.folder} does not end: see its log.txt")
            if open_kill is not None:
                open_kill.again = True
            run.give()
        if pending and watch.count >= pending[0].after:
            kill = pending[0]
            # No earlier than its delay after the one before.
            waited = now - max(watch.times[kill.after], last_kill)
            found = victims[kill.victim].found(run) if waited > kill.delay else []
            if found:
                pending.pop(0)
                kill.moment, at_kill, open_kill = now - begin, watch.count, kill
                with suppress(ProcessLookupError):
                    os.kill(random.choice(sorted(found)), victims[kill.victim].how)
                if kill.victim == "second node" and kill.run % 2 == 0:
                    back_at = now + _BACK_SECONDS
                last_kill = now
            elif waited > kill.delay + _VICTIM_SECONDS:
                kill.victim = random.choice(["host", "driver"])
        time.sleep(_LOOK_SECONDS)


def undisturbed(kind: Kind, folder: Path, server: Server, cache: Path) -> tuple[float, int, Any]:
    """Seconds of a run, how often it brought something to the disk, and what it leaves."""
    run = Run(kind, folder / kind.name, server, cache)
    begin = time.monotonic()
    run.give()
    watch = Watch(run)
    while run.ended is None:
        watch.look()
        time.sleep(_LOOK_SECONDS)
    seconds = time.monotonic() - begin
    if run.ended != 0:
        raise SystemExit((run.folder.parent / "log.txt").read_text()[-3000:])
    run.clean()
    found = kind.outcome(run.folder)
    assert found, "a run leaves something"
    return seconds, watch.count, found


@contextmanager
def prepared(folder: Path) -> Iterator[tuple[dict[str, Kind], Server, Path]]:
    """The kinds of runs, a server and a cache, below a folder."""
    kinds = {each.name: each for each in (sweep_of(folder), federation_of(folder), calls(folder))}
    server = Server(folder)
    try:
        yield kinds, server, folder / "cache"
    finally:
        server.end()


def sweep_of(folder: Path) -> Kind:
    """Replay and distillation under a scheduler that stops the worse half after two tasks."""
    strategies = [{"strategy": {"name": name}} for name in ("er", "lwf", "simplecil")]
    mapping = {
        **_job(tiny_bert(folder)),
        "strategy": {"name": "er"},
        "sweep": {
            "variants": strategies,
            "space": {"seed": {"grid_search": [0, 1]}},
            # Seconds would decide otherwise in a run that is disturbed.
            "scheduler": {"name": "task_halving", "costs": ["forgetting", "train_flops"]},
        },
    }
    return Kind("sweep", "sweep", mapping, "store/payloads/*")


def federation_of(folder: Path) -> Kind:
    """Replay at six clients."""
    mapping = {
        **_job(tiny_bert(folder)),
        "strategy": {"name": "er"},
        "federation": {"clients": 6, "rounds": 8, "bounds": False, "participation": 0.8},
    }
    return Kind("federation", "federate", mapping, "rounds/*.safetensors")


def calls(folder: Path) -> Kind:
    """A tiny language model that answers in calls."""
    mapping = {
        "name": "chaos",
        "stream": {
            "name": "assistant_calls",
            "tasks": ["lights", "climate", "media"],
            "sentences_per_intent": 30,
        },
        "scenario": {"kind": "domain_incremental", "limit_per_class": 12},
        "backbone": {"name": str(write_model("llama", folder / "llama"))},
        "adapter": {"kind": "lora", "rank": 2},
        "strategy": {"name": "er", "replay_size": 4},
        "memory": {"policy": "class_balanced", "size": 8},
        "training": {"epochs": 4, "batch_size": 8},
        "sweep": {"space": {"seed": {"grid_search": [0, 1, 2, 3]}}},
    }
    return Kind("language", "sweep", mapping, "store/payloads/*")


def _job(backbone: Path) -> dict[str, Any]:
    return {
        "name": "chaos",
        "stream": {"name": "assistant", "sentences_per_intent": 40},
        "scenario": {"kind": "class_incremental", "num_tasks": 4},
        "backbone": {"name": str(backbone)},
        "adapter": {"kind": "lora", "rank": 4},
        "memory": {"policy": "reservoir", "size": 60},
        "training": {"epochs": 6, "batch_size": 16},
    }


def tiny_bert(folder: Path) -> Path:
    """A random BERT of two layers with MiniLM's words."""
    place = folder / "tiny_bert"
    if not place.exists():
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        BertModel(BertConfig(**sizes, intermediate_size=64)).save_pretrained(place)
        AutoTokenizer.from_pretrained(locate("minilm")).save_pretrained(place)
    return place


def drawn(kind: Kind, number: int, steps: int, names: list[str], random: Random) -> list[Kill]:
    """The kills of a run, its victims taken from `names`, which is filled again when it is empty:
    so all have their turn. A second node that is lost shares its run with nobody who is not there
    on two nodes."""
    kills = []
    for _ in range(_KILLS_PER_RUN):
        if not names:
            names += random.sample(kinds_of(kind), len(kinds_of(kind)))
        after = random.randrange(max(steps * 9 // 10, 1))
        longest = _LONGEST_DELAY if after else 10.0
        kills.append(Kill(number, kind.name, names.pop(), after, random.uniform(0.0, longest)))
    if any(each.victim == "second node" for each in kills):
        for each in kills:
            if each.victim in ("raylet", "GCS"):
                names.insert(0, each.victim)
                each.victim = "host"
    return kills


def kinds_of(kind: Kind) -> list[str]:
    """The names of a kind's victims."""
    return [each.name for each in kind.victims()]


def main() -> None:
    """Make the runs, and show what became of them."""
    parser = ArgumentParser(description=str(__doc__).partition("\n\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    names = ["sweep", "federation", "language"]
    parser.add_argument("--kinds", nargs="+", choices=names, default=names)
    parser.add_argument("--out", type=Path, help="keep the kills and runs in this file, as JSON")
    given = parser.parse_args()
    # In the background of a shell SIGINT is ignored, and commands would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    random = Random(given.seed)
    kills: list[Kill] = []
    runs: list[dict[str, Any]] = []
    console = stdout()
    with ExitStack() as stack:
        place = stack.enter_context(TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True))
        folder = Path(place)
        kinds, server, cache = stack.enter_context(prepared(folder))
        whole = {name: undisturbed(kinds[name], folder, server, cache) for name in given.kinds}
        for name, (seconds, steps, expected) in whole.items():
            about = f"{seconds:.1f} s undisturbed, {steps} steps, {len(expected)} files"
            console.print(f"{name}: {about}")
        left: dict[str, list[str]] = {name: [] for name in given.kinds}
        while len(kills) < given.kills:
            number = len(runs)
            kind = kinds[given.kinds[number % len(given.kinds)]]
            seconds, steps, expected = whole[kind.name]
            planned = drawn(kind, number, steps, left[kind.name], random)
            victims = [each.victim for each in planned]
            run = Run(kind, folder / f"run-{number}", server, cache, victims)
            try:
                took = disturbed(run, planned, random)
            finally:
                behind = run.clean()
            found = kind.outcome(run.folder)
            same = sum(found.get(key) == each for key, each in expected.items())
            record = {
                "run": number,
                "kind": kind.name,
                "kills": victims,
                "given": run.times_given,
                "lost": took - seconds,
                "same": f"{same} of {len(expected)}",
                "holds": found == expected,
                "left_behind": behind,
            }
            kills += [each for each in planned if each.moment is not None]
            left[kind.name] += [each.victim for each in planned if each.moment is None]
            runs.append(record)
            console.print(record, soft_wrap=True)
            if given.out is not None:
                # After each run: whoever ends this early has what was found.
                found_all = {"kills": [asdict(each) for each in kills], "runs": runs}
                given.out.write_text(json.dumps(found_all, indent=1) + "\n", encoding="utf-8")
    show(kills, runs)
    if not all(each["holds"] for each in runs):
        raise SystemExit(1)


def show(kills: Sequence[Kill], runs: Sequence[Mapping[str, Any]]) -> None:
    """The table of kills, and what they come to."""
    table = Table(box=None, pad_edge=False)
    for heading in ("run", "kind", "victim", "at s", "went on", "next task after s", "run lost s"):
        table.add_column(heading, justify="left" if heading in ("kind", "victim") else "right")
    for each in kills:
        table.add_row(
            str(each.run),
            each.kind,
            each.victim,
            f"{each.moment or 0.0:.1f}",
            "given again" if each.again else "by itself",
            "-" if each.until_next is None else f"{each.until_next:.1f}",
            f"{runs[each.run]['lost']:.1f}",
        )
    console = stdout()
    console.print(table)
    console.print(by_victim(kills))
    holding = sum(bool(each["holds"]) for each in runs)
    lost = sum(float(each["lost"]) for each in runs)
    console.print(
        f"{len(kills)} kills in {len(runs)} runs: {holding} of {len(runs)} runs ended with the "
        f"bytes of the undisturbed one; {lost / max(len(kills), 1):.1f} s lost per kill"
    )


def by_victim(kills: Sequence[Kill]) -> Table:
    """A line for each victim: how often it was hit, how often the command was given again then, and
    the shortest and longest time until the next task was on the disk."""
    table = Table(box=None, pad_edge=False)
    for heading in (
        "victim",
        "times",
        "given again",
        "next task after s",
        "another kill or the end came first",
    ):
        table.add_column(heading, justify="left" if heading == "victim" else "right")
    for name in [each.name for each in VICTIMS]:
        own = [each for each in kills if each.victim == name]
        seconds = [each.until_next for each in own if each.until_next is not None]
        if own:
            again = sum(each.again for each in own)
            between = f"{min(seconds):.0f} to {max(seconds):.0f}" if seconds else "-"
            left = len(own) - len(seconds)
            table.add_row(name, str(len(own)), str(again), between, str(left))
    return table


if __name__ == "__main__":
    main()
