"""Three bundles behind `lamina serve` against one process per adapter with transformers and PEFT.

    python tests/benchmarks/serve.py [--out FILE] [--data DIR] [--lanes LANE ...] [--small]

The bundles are three LoRA of rank 8 on all layers of MiniLM, trained for a few steps on the voice
commands of the `assistant` stream (how well they answer is of no account here). Lamina's side is
`lamina serve` with one replica of one thread, as it comes. The other is `peers/peft_server.py` in a
process per adapter, of one thread each (its docstring says how it is written and why).

Fifty clients ask at a time, each again as soon as it has its answer: one text per request, of the
three bundles in turn; the sentences of CLINC150 (`--data` is the authors' folder), or where that is
not there those of the stream. The clients are this process, whose share of the machine is in both
sides alike. The sides take turns; each is started, asked some requests that do not count, and then
timed. Both answer the same requests; every label is compared, and every score.

| lane | what is compared | what has to be seen |
|---|---|---|
| `throughput` | requests per second of Lamina over those of the peer | 2 |
| `careful` | the same against a peer that merges its adapter and batches what waits | 1 |
| `memory` | memory of the processes that hold a model: all of the peer's over Lamina's one | 2 |

Memory is the proportional set size after the last request, which counts a page that several
processes share once. Lamina's other processes, most of them Ray's, are in `lamina_mib`: what the
first bundle costs, and no other. What else the JSON says: requests per second, `p50` and `p99` in
milliseconds, `cpu_ms`, the CPU time of all processes of a side for a request (without that of the
clients), and `mib`, in each repetition; `largest_difference` of a score, and how many labels
differ.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import psutil
import yaml
from safetensors.torch import save_file

from harness import PROJECT, Lane, arguments, finish, lamina, own_environment, seconds_of, stdout
from lamina.adapters.model import HEAD
from lamina.backbones.locate import locate
from lamina.bundles import Bundle, find_bundle, load_predictor, open_bundle
from lamina.core import PARTS
from lamina.orchestration.hosts.resident_backbones import stream_of

PEER = Path(__file__).parent / "peers" / "peft_server.py"
CLINC150 = PROJECT.parent / "shared" / "data" / "clinc150"
NUM_BUNDLES = 3
CLIENTS = 50
REQUESTS = 3000
WARM = 300
"""Requests before the timed ones."""
REPEATS = 3
START_SECONDS = 300.0
TARGETS = {"throughput": 2.0, "careful": 1.0, "memory": 2.0}
MIB = 2**20

Ask = tuple[str, dict[str, Any]]
"""An address, and what is posted there."""
Answers = list[tuple[str, float]]
"""Label and score of each request."""


@dataclass(frozen=True)
class Load:
    """How much is asked."""

    requests: int = REQUESTS
    warm: int = WARM
    repeats: int = REPEATS


@dataclass(frozen=True)
class Measured:
    """What a side came to."""

    seconds: float
    latencies: Sequence[float]
    """Seconds of each request."""
    answers: Answers
    mib: Mapping[str, float]
    """Memory of its processes, by pid and name."""
    cpu: Mapping[str, float]
    """Seconds of CPU time that they took for these requests."""

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.latencies) / self.seconds

    @property
    def total_mib(self) -> float:
        """Memory of all."""
        return sum(self.mib.values())

    @property
    def model_mib(self) -> float:
        """Memory of the processes that hold a model: Lamina's replica, or all of the peer's."""
        replicas = [mib for name, mib in self.mib.items() if "ServeReplica" in name]
        return sum(replicas) or self.total_mib

    @property
    def cpu_ms(self) -> float:
        """Milliseconds of CPU time for a request."""
        return 1e3 * sum(self.cpu.values()) / len(self.latencies)

    def percentile(self, percent: int) -> float:
        """Of the latencies, in milliseconds."""
        return 1e3 * quantiles(self.latencies, n=100)[percent - 1]


@dataclass
class Rounds:
    """What both sides came to, in each repetition."""

    own: list[Measured] = field(default_factory=list)
    peer: list[Measured] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """Plain JSON."""
        sides = {"lamina": self.own, "peer": self.peer}
        found: dict[str, Any] = {}
        for name, side in sides.items():
            found[f"{name}_requests_per_second"] = [each.rate for each in side]
            found[f"{name}_p50"] = [each.percentile(50) for each in side]
            found[f"{name}_p99"] = [each.percentile(99) for each in side]
            found[f"{name}_cpu_ms"] = [each.cpu_ms for each in side]
            found[f"{name}_mib"] = [each.total_mib for each in side]
            found[f"{name}_mib_of_models"] = [each.model_mib for each in side]
        pairs = [
            (one, other)
            for own, peer in zip(self.own, self.peer, strict=True)
            for one, other in zip(own.answers, peer.answers, strict=True)
        ]
        found["labels_that_differ"] = sum(one[0] != other[0] for one, other in pairs)
        found["largest_difference"] = max(abs(one[1] - other[1]) for one, other in pairs)
        return found


def main() -> None:
    """Measure the lanes that are asked for."""
    parser = arguments(str(__doc__), list(TARGETS))
    parser.add_argument("--data", type=Path, default=CLINC150, help="the folder of CLINC150")
    given = parser.parse_args()
    load = Load(300, 50, 1) if given.small else Load()
    repeats = given.repeats or load.repeats
    with TemporaryDirectory() as name:
        folder = Path(name)
        stdout().print(f"training {NUM_BUNDLES} bundles")
        bundles = trained(folder)
        texts = texts_of(bundles["bundle-0"], given.data)
        plain, careful = Rounds(), Rounds()
        for turn in range(repeats):
            own = measured(lambda: serving(folder, bundles), texts, load)
            tell("lamina", turn, own)
            wanted = {"plain": plain} if {"throughput", "memory"} & set(given.lanes) else {}
            wanted |= {"careful": careful} if "careful" in given.lanes else {}
            for kind, rounds in wanted.items():
                peer = measured(lambda kind=kind: peers(folder, bundles, kind), texts, load)
                tell(f"{kind} peer", turn, peer)
                rounds.own.append(own)
                rounds.peer.append(peer)
    lanes = [lane_of(name, careful if name == "careful" else plain) for name in given.lanes]
    finish(
        "lamina serve against a process per adapter", lanes, list(TARGETS), given.small, given.out
    )


def lane_of(name: str, rounds: Rounds) -> Lane:
    """A line of the table."""
    pairs = list(zip(rounds.own, rounds.peer, strict=True))
    if name == "memory":
        values = [peer.model_mib / own.model_mib for own, peer in pairs]
    else:
        values = [own.rate / peer.rate for own, peer in pairs]
    return Lane(name, values, TARGETS[name], details=rounds.record())


def tell(name: str, turn: int, found: Measured) -> None:
    """A line while it runs."""
    stdout().print(
        f"{turn + 1}: {name}: {found.rate:.0f} requests/s, p50 {found.percentile(50):.0f} ms, "
        f"p99 {found.percentile(99):.0f} ms, {found.total_mib:.0f} MiB",
        highlight=False,
    )


def trained(folder: Path) -> dict[str, Bundle]:
    """The bundles, by the name that they are served under."""
    found = {}
    for number in range(NUM_BUNDLES):
        name = f"bundle-{number}"
        job = {
            "name": name,
            "seed": number,
            "stream": {"name": "assistant", "sentences_per_intent": 10},
            "scenario": {"kind": "class_incremental", "num_tasks": 2},
            "backbone": {"name": "minilm"},
            "adapter": {"kind": "lora", "rank": 8, "alpha": 16},
            "strategy": {"name": "finetune"},
            "training": {"epochs": 1, "batch_size": 16, "learning_rate": 2e-3},
            "tracking": {"enabled": False},
            "output_dir": str(folder / name),
        }
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(job))
        seconds_of(lamina("run", str(path)), folder / f"{name}.log")
        found[name] = open_bundle(find_bundle(folder / name))
        write_head(found[name], folder / f"{name}.safetensors")
    return found


def write_head(bundle: Bundle, path: Path) -> None:
    """The head of a bundle by itself, as the peer reads it."""
    predictor = load_predictor(bundle)
    tensors = {key: each.detach() for key, each in predictor.model.adapters[HEAD].tensors.items()}
    metadata = {"labels": json.dumps(list(predictor.class_names))}
    save_file(tensors, path, metadata)


def texts_of(bundle: Bundle, data: Path) -> list[str]:
    """What is asked."""
    if data.is_dir():
        content = json.loads((data / "data_full.json").read_text(encoding="utf-8"))
        return [text for text, _ in content["test"]]
    stream = stream_of(bundle.job)
    return [
        text for each in stream.experiences for part in PARTS for text in each.part(part).values
    ]


@contextmanager
def serving(folder: Path, bundles: Mapping[str, Bundle]) -> Iterator[tuple[list[int], list[str]]]:
    """`lamina serve` while it runs: its process, and the address of each bundle."""
    port = free_port()
    words = [f"{name}={bundle.folder}" for name, bundle in bundles.items()]
    command = lamina("serve", *words, "--port", str(port), "--threads", "1")
    with running(command, folder / "serve.log") as process:
        wait_for(f"http://127.0.0.1:{port}/healthz", process, folder / "serve.log")
        yield [process.pid], [f"http://127.0.0.1:{port}/v1/predict"] * len(bundles)


@contextmanager
def peers(
    folder: Path, bundles: Mapping[str, Bundle], kind: str
) -> Iterator[tuple[list[int], list[str]]]:
    """A process for each bundle: all of them, and their addresses."""
    options = ["--careful"] if kind == "careful" else []
    model = str(locate("minilm"))
    with ExitStack() as stack:
        ids, addresses = [], []
        started = []
        for name, bundle in bundles.items():
            port = free_port()
            files = [str(bundle.folder / "adapters" / "main"), str(folder / f"{name}.safetensors")]
            command = [sys.executable, str(PEER), model, *files, str(port), *options]
            log = folder / f"{name}-peer.log"
            process = stack.enter_context(running(command, log))
            ids.append(process.pid)
            addresses.append(f"http://127.0.0.1:{port}/v1/predict")
            started.append((f"http://127.0.0.1:{port}/openapi.json", process, log))
        for each in started:
            wait_for(*each)
        yield ids, addresses


@contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command on this checkout, told to end at the end."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=own_environment(), cwd=log.parent
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until it answers. Raises SystemExit with what the command printed where it does not."""

    async def answers() -> bool:
        try:
            async with aiohttp.ClientSession() as session, session.get(address) as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    end = time.monotonic() + START_SECONDS
    while not asyncio.run(answers()):
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"failed:\n{log.read_text(errors='replace')}")
        time.sleep(0.2)


def measured(start: Any, texts: Sequence[str], load: Load) -> Measured:
    """One side, started, warmed and timed."""
    names = [f"bundle-{number}" for number in range(NUM_BUNDLES)]
    with start() as (ids, addresses):
        is_one = len(set(addresses)) == 1

        def asks(number: int) -> list[Ask]:
            """In turn to each bundle, with the texts from the first one on."""
            found = []
            for place in range(number):
                which = place % NUM_BUNDLES
                body: dict[str, Any] = {"inputs": [texts[place % len(texts)]]}
                if is_one:
                    body["bundle"] = names[which]
                found.append((addresses[which], body))
            return found

        asyncio.run(asked(asks(load.warm)))
        before = cpu_of(ids)
        begin = time.perf_counter()
        latencies, answers = asyncio.run(asked(asks(load.requests)))
        seconds = time.perf_counter() - begin
        cpu = {name: spent - before.get(name, 0.0) for name, spent in cpu_of(ids).items()}
        return Measured(seconds, latencies, answers, memory_of(ids), cpu)


async def asked(asks: Sequence[Ask]) -> tuple[list[float], Answers]:
    """Seconds and answer of each request: so many clients, each with one request at a time."""
    latencies = [0.0] * len(asks)
    answers: Answers = [("", 0.0)] * len(asks)
    places = iter(range(len(asks)))
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def client() -> None:
            for place in places:
                address, body = asks[place]
                begin = time.perf_counter()
                async with session.post(address, json=body) as response:
                    content = await response.json()
                    if response.status != 200:
                        raise SystemExit(f"{response.status}: {content}")
                latencies[place] = time.perf_counter() - begin
                (said,) = content["predictions"]
                answers[place] = (said["label"], said["score"])

        await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return latencies, answers


def family_of(ids: Sequence[int]) -> dict[str, psutil.Process]:
    """Processes and those that they have started, by pid and name."""
    found = {}
    for number in ids:
        process = psutil.Process(number)
        for each in [process, *process.children(recursive=True)]:
            # Ray adds the method that an actor runs.
            name = Path((each.cmdline() or [each.name()])[0]).name.partition(".")[0]
            found[f"{each.pid} {name}"] = each
    return found


def memory_of(ids: Sequence[int]) -> dict[str, float]:
    """MiB of processes and those that they have started."""
    return {name: each.memory_full_info().pss / MIB for name, each in family_of(ids).items()}


def cpu_of(ids: Sequence[int]) -> dict[str, float]:
    """Seconds of CPU time that they have taken."""
    found = {}
    for name, each in family_of(ids).items():
        times = each.cpu_times()
        found[name] = times.user + times.system
    return found


def free_port() -> int:
    """One that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
