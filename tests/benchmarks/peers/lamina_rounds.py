"""Lamina's side of `federated_vs_flower.py`: federated averaging of the plan's clients.

    python tests/benchmarks/peers/lamina_rounds.py FOLDER

FOLDER has the `Plan` of the run; what was found is written there. Everything but the work of a
client is what `lamina federate` runs: the manifest, the state machine with its checks and virtual
clock, the hosts and their workers, updates and states as the bytes that travel, the state on disk
after each round (brought to it with fsync), and a line for each round in `events.jsonl`.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import psutil
import ray
import torch
from torch import Tensor

from client_work import Found, Plan, initial, mean_of, work_of
from lamina.core import Experience, Samples, Stream, Summary, Task
from lamina.federation.aggregators.fedit import FedIT
from lamina.federation.client.client import ClientWork
from lamina.federation.client.client_state import ClientState
from lamina.federation.server.clock import ClockSettings, Participants
from lamina.federation.server.rounds import FederatedRun
from lamina.federation.server.run_settings import RunSettings
from lamina.federation.shared_model import SharedModel
from lamina.federation.state import Scaling
from lamina.federation.timetable import Entry
from lamina.federation.update import ClientUpdate, Tensors
from lamina.federation.work import Download, Item, LocalWork
from lamina.garbage import collect_seldom
from lamina.orchestration.cluster import Device, cluster
from lamina.orchestration.federated.pool import RayPool
from lamina.orchestration.federated.round_store import RoundStore
from lamina.orchestration.federated.run import drive
from lamina.orchestration.federated.worker import ChunkWorker
from lamina.streams.arrivals.in_step import InStep
from lamina.streams.dealing import make_manifest
from lamina.streams.manifest import StreamManifest
from lamina.streams.partitioners.iid import Iid
from lamina.tracking.json_lines import JsonLinesTracker

CORES = 2
ROWS_EACH = 10
"""Rows that the manifest has for a client."""
RUN = "rounds"


@dataclass(frozen=True)
class PlannedBoundaries:
    """The task begins at the server, with the plan's first state."""

    work: str

    def cross(
        self, download: Download, task: int, summary: Summary | None, *, end: bool
    ) -> tuple[SharedModel, dict[str, Tensor]]:
        """The first state."""
        tensors = {name: torch.from_numpy(each) for name, each in initial(self.work).items()}
        return SharedModel({"adapters": {}}, {}, tuple(tensors)), tensors


@dataclass(frozen=True)
class PlannedTraining:
    """Clients whose work is the plan's, where a job's clients would train its adapters."""

    work: str
    manifest: StreamManifest

    def train(
        self, download: Download, item: Item, client_state: ClientState
    ) -> tuple[ClientUpdate, ClientState]:
        """A client's round."""
        found = work_of(self.work, item.client, _arrays(download.state.tensors))
        update = ClientUpdate(
            client=self.manifest.clients[item.client].name,
            round=item.version,
            tensors={name: torch.from_numpy(each) for name, each in found.arrays.items()},
            num_rows=found.num_rows,
            phase="both",
            base=download.base,
            metrics={"loss": found.loss},
        )
        return update, ClientState()


class Watch:
    """Takes down when each round was over and what came, and the CPU time of the timed rounds."""

    def __init__(self, plan: Plan, hosts: list[int], tracker: JsonLinesTracker) -> None:
        self._plan = plan
        self._processes = {"hosts": [psutil.Process(each) for each in hosts]}
        daemons = [each for each in psutil.Process().children() if each.pid not in hosts]
        self._processes["daemons"] = daemons
        self._tracker = tracker
        self._before: dict[str, float] = {}
        self.ends: list[float] = []
        self.updates: list[int] = []
        self.losses: list[float] = []
        self.cpu: dict[str, float] = {}

    def __call__(self, event: Mapping[str, Any]) -> None:
        """An event of the run."""
        if event["kind"] != "train":
            return
        metrics = event["metrics"]
        self._tracker.log(
            RUN, {f"round/{key}": value for key, value in metrics.items()}, len(self.ends)
        )
        self.updates.append(int(metrics["clients"]))
        self.losses.append(metrics["loss/mean"])
        done = len(self.ends) + 1
        if done == self._plan.skipped:
            self._before = self._seconds()
        self.ends.append(perf_counter())
        if done == self._plan.all_rounds:
            after = self._seconds()
            self.cpu = {name: after[name] - self._before[name] for name in after}

    def _seconds(self) -> dict[str, float]:
        found = {"driver": process_time()}
        for name, processes in self._processes.items():
            times = [each.cpu_times() for each in processes]
            found[name] = sum(each.user + each.system for each in times)
        return found


def main(folder: Path) -> None:
    """Run the plan."""
    plan = Plan.read(folder)
    collect_seldom()
    torch.set_num_threads(1)
    manifest = make_manifest(stream_of(plan), plan.registered, Iid(), InStep(), seed=0)
    run = FederatedRun(settings_of(plan, manifest))
    store = RoundStore(folder, "benchmark")
    tracker = JsonLinesTracker(folder)
    with cluster(CORES):
        devices = [Device(is_gpu=False, threads=1)] * CORES
        started: list[int] = []

        def hear(event: Mapping[str, Any]) -> None:
            if event["event"] == "host_ready":
                started.append(event["process"])

        pool = RayPool(partial(make_worker, plan.work), devices, (ray.put(manifest),), hear)
        try:
            pool.gather()
            watch = Watch(plan, started, tracker)
            drive(run, pool, store, watch)
        finally:
            pool.close()
    tracker.close()
    last = mean_of(_arrays(run.server.global_state.tensors))
    Found(watch.ends, watch.updates, watch.losses, last, watch.cpu).write(folder)


def make_worker(work: str, is_gpu: bool, manifest: StreamManifest) -> ChunkWorker:
    """What a host does its chunks at."""
    # Nothing in the timetable asks for answers.
    return ChunkWorker(ClientWork(PlannedBoundaries(work), PlannedTraining(work, manifest), None))


def stream_of(plan: Plan) -> Stream[Samples]:
    """One task with as many rows for every client."""
    number = plan.registered * ROWS_EACH
    rows = Samples([""] * number, torch.zeros(number, dtype=torch.int64), torch.arange(number))
    none = Samples([], torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
    task = Experience(Task(0, "only", (0,)), rows, none, none)
    return Stream("rounds", "class_incremental", "text", ("only",), (task,))


def settings_of(plan: Plan, manifest: StreamManifest) -> RunSettings:
    """A run of one task, begun at the server, that is all rounds."""
    rounds = (Entry("train", 0.0, 0, number) for number in range(plan.all_rounds))
    return RunSettings(
        manifest=manifest,
        timetable=(Entry("begin", 0.0), *rounds),
        aggregator=FedIT(),
        optimiser=None,
        participants=Participants(plan.sampled),
        clock=ClockSettings(),
        local=LocalWork(),
        batch_size=ROWS_EACH,
        seed=0,
        scaling=Scaling(),
        ranks=(),
        personal=False,
        ids={},
    )


def _arrays(tensors: Tensors) -> dict[str, Any]:
    return {name: each.numpy() for name, each in tensors.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
