"""A sweep and a federation on two machines that have no disk in common.

    sudo python tests/benchmarks/two_machines.py [--kinds sweep federation] [--out FILE]

The machines are two namespaces of the network and of mounts on this one: each has an address, a
host name, a temporary folder, a cache and data of its own. Only the first has the stream's file and
the backbone's folder. Jobs are sent to it with `lamina submit`, from neither of them. It needs root
and iproute2.

| way | what happens |
|---|---|
| `alone` | the second machine is not there |
| `both` | nothing: both machines train |
| `lost` | the second is killed for good in the middle |
| `late` | the second joins when the first has learned something |

What is left on the first machine must be, byte for byte, what is left there when it is alone.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from chaos import Kind, tiny_bert
from harness import PROJECT, own_environment, stdout

ADDRESSES = ("10.77.0.1", "10.77.0.2")
_MOST_SECONDS = 900.0
_LOOK_SECONDS = 0.2
_OWN = (str(Path.home() / ".cache"), "/mnt", "/tmp")
"""Folders that each machine has of its own. The last one may hold those that take their place."""


class Machine:
    """One of the two."""

    def __init__(self, number: int, folder: Path) -> None:
        self.number = number
        self.address = ADDRESSES[number]
        self.name = f"lamina-{number}"
        self.disk = folder / self.name
        """Seen from outside; what is below it is what the machine has in `_OWN`."""
        for path in _OWN:
            (self.disk / path[1:]).mkdir(parents=True)
        self.log = self.disk / "ray.log"
        self._ray: subprocess.Popen[bytes] | None = None

    def start(self, environment: Mapping[str, str], head: bool) -> None:
        """Ray on it, with one core."""
        # Every machine has Lamina's dependencies and no Lamina; the token is in the environment.
        binds = "; ".join(f"mount --bind {self.disk}{path} {path}" for path in _OWN)
        own = ["--head", f"--node-ip-address={self.address}", "--dashboard-host=0.0.0.0"]
        other = [f"--address={ADDRESSES[0]}:6379", f"--node-ip-address={self.address}"]
        words = " ".join([*(own if head else other), "--num-cpus=1", "--block"])
        ray = Path(sys.executable).with_name("ray")
        script = (
            f"mount --make-rprivate /; {binds}; hostname {self.name}; "
            f"exec {ray} start --disable-usage-stats {words}"
        )
        command = ["ip", "netns", "exec", self.name, "unshare", "--mount", "--uts", "sh", "-c"]
        self._ray = subprocess.Popen(
            [*command, script],
            env={**environment, "PATH": f"{ray.parent}:{os.environ['PATH']}"},
            cwd="/",
            stdout=self.log.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def end(self) -> None:
        """Everything on it is killed."""
        found = subprocess.run(
            ["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False
        )
        for process in found.stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)
        if self._ray is not None:
            self._ray.wait()
            self._ray = None


class Pair:
    """Both machines, with a wire between them."""

    def __init__(self, folder: Path) -> None:
        self.machines = [Machine(number, folder) for number in range(2)]
        self.environment = {
            **{key: each for key, each in own_environment().items() if key != "PYTHONPATH"},
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
        }
        for machine in self.machines:
            _ip("netns", "add", machine.name)
            _ip("-n", machine.name, "link", "set", "lo", "up")
        ends = [each.name for each in self.machines]
        _ip(
            "link",
            "add",
            ends[0],
            "netns",
            ends[0],
            "type",
            "veth",
            "peer",
            ends[1],
            "netns",
            ends[1],
        )
        for machine in self.machines:
            _ip("-n", machine.name, "addr", "add", f"{machine.address}/24", "dev", machine.name)
            _ip("-n", machine.name, "link", "set", machine.name, "up")

    def stop(self) -> None:
        """End what runs on both."""
        for machine in self.machines:
            machine.end()

    def end(self) -> None:
        """Take all of it down."""
        self.stop()
        for machine in self.machines:
            _ip("netns", "del", machine.name)

    def submit(self, kind: Kind, job: Mapping[str, Any], folder: Path) -> subprocess.Popen[bytes]:
        """Send a job to the first machine and follow it, from the first one's network and the disk
        of none of them."""
        path = folder / "job.yaml"
        path.write_text(yaml.safe_dump(dict(job)))
        words = ["submit", str(path), "--command", kind.command, "--follow"]
        words += ["--address", f"http://{ADDRESSES[0]}:8265"]
        command = [sys.executable, "-W", "ignore", "-m", "lamina.cli", *words]
        path_of_lamina = {"PYTHONPATH": str(PROJECT / "platform")}
        return subprocess.Popen(
            ["ip", "netns", "exec", self.machines[0].name, *command],
            env={**self.environment, **path_of_lamina, "LAMINA_CACHE": str(folder / "submitter")},
            stdout=(folder / "log.txt").open("wb"),
            stderr=subprocess.STDOUT,
        )


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def kinds(epochs: int) -> dict[str, Kind]:
    """Both jobs. Their data and backbone are where the first machine has them."""
    job = {
        "name": "two",
        "stream": {
            "name": "huggingface",
            "path": "/mnt/rows.csv",
            "text_column": "text",
            "label_column": "label",
        },
        "scenario": {"kind": "class_incremental", "num_tasks": 4},
        "backbone": {"name": "/mnt/backbone"},
        "adapter": {"kind": "lora", "rank": 4},
        "strategy": {"name": "er"},
        "memory": {"policy": "reservoir", "size": 60},
        "training": {"epochs": epochs, "batch_size": 16},
        "hosts": {"count": 2},
        "tracking": {"enabled": False},
    }
    sweep = {**job, "sweep": {"space": {"seed": {"grid_search": [0, 1, 2, 3]}}}}
    federation = {**job, "federation": {"clients": 6, "rounds": 4 * epochs, "bounds": False}}
    return {
        "sweep": Kind("sweep", "sweep", sweep, "store/payloads/*"),
        "federation": Kind("federation", "federate", federation, "rounds/*.safetensors"),
    }


def rows(path: Path) -> None:
    """Sentences of sixteen classes."""
    nouns = (
        "light door timer song lamp oven fan heater radio screen window curtain lock alarm tap bell"
    )
    phrases = ["turn on the {}", "{} please", "stop the {} now", "I want the {}", "the {} again"]
    lines = [
        f"{phrase.format(noun)} {n},{noun}"
        for noun in nouns.split()
        for phrase in phrases
        for n in range(8)
    ]
    path.write_text("\n".join(["text,label", *lines]) + "\n")


def made(kind: Kind, way: str, pair: Pair, folder: Path) -> tuple[float, dict[str, str], list[str]]:
    """Seconds of a job, what it leaves, and what it has said of its hosts."""
    first, second = pair.machines
    first.start(pair.environment, head=True)
    _wait_for(first)
    if way in ("both", "lost"):
        second.start(pair.environment, head=False)
        _wait_for(second)
    place = folder / f"{kind.name}-{way}"
    place.mkdir()
    out = first.disk / "mnt" / place.name
    begin = time.monotonic()
    sent = pair.submit(kind, {**kind.mapping, "output_dir": f"/mnt/{place.name}"}, place)
    is_pending = way in ("lost", "late")
    while sent.poll() is None:
        if time.monotonic() - begin > _MOST_SECONDS:
            sent.kill()
            break
        log = (place / "log.txt").read_text()
        has_learned = any(out.glob(kind.progress))
        if is_pending and has_learned and (way == "late" or log.count("is ready") == 2):
            is_pending = False
            if way == "late":
                second.start(pair.environment, head=False)
            else:
                time.sleep(2.0)
                second.end()
        time.sleep(_LOOK_SECONDS)
    seconds = time.monotonic() - begin
    log = (place / "log.txt").read_text()
    pair.stop()
    if sent.wait() != 0:
        raise SystemExit(f"{place.name} failed:\n{log[-3000:]}")
    return seconds, kind.outcome(out), [each for each in log.splitlines() if "host-" in each]


def main() -> None:
    """All lanes."""
    parser = ArgumentParser(description=str(__doc__).partition("\n\n")[0])
    ways = ["alone", "both", "lost", "late"]
    parser.add_argument("--kinds", nargs="+", choices=["sweep", "federation"])
    parser.add_argument("--ways", nargs="+", choices=ways[1:], default=ways[1:])
    parser.add_argument("--epochs", type=int, default=12, help="so long are the trials")
    parser.add_argument("--out", type=Path, help="write what was found to this file, as JSON")
    given = parser.parse_args()
    console = stdout()
    found: dict[str, Any] = {}
    with TemporaryDirectory(prefix="two-machines-", ignore_cleanup_errors=True) as place:
        folder = Path(place)
        pair = Pair(folder)
        first = pair.machines[0]
        try:
            rows(first.disk / "mnt" / "rows.csv")
            shutil.copytree(tiny_bert(folder), first.disk / "mnt" / "backbone")
            for kind in kinds(given.epochs).values():
                expected: dict[str, str] = {}
                if given.kinds is not None and kind.name not in given.kinds:
                    continue
                for way in ["alone", *given.ways]:
                    seconds, left, said = made(kind, way, pair, folder)
                    expected = expected or left
                    same = sum(left.get(key) == each for key, each in expected.items())
                    found[f"{kind.name}, {way}"] = {
                        "seconds": seconds,
                        "same": f"{same} of {len(expected)}",
                        "said": said,
                    }
                    console.print({f"{kind.name}, {way}": found[f"{kind.name}, {way}"]})
        finally:
            pair.end()
    if given.out is not None:
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _wait_for(machine: Machine) -> None:
    """Return when Ray on it is there."""
    log = machine.log
    for _ in range(1200):
        if "Ray runtime started" in log.read_text(errors="replace"):
            return
        time.sleep(0.1)
    raise SystemExit(log.read_text(errors="replace")[-2000:])


if __name__ == "__main__":
    main()
