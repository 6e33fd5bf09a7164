"""A federated run from its first round to its last: the state machine, the hosts that do its work,
and the store that keeps it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Protocol

import ray
import torch
from torch import Tensor

from lamina.adapters.kinds.lora import LoRA
from lamina.config import Job
from lamina.config.clients import check_step, manifest_of
from lamina.core import D, Part, Samples, Stream
from lamina.digests import digest_of, without_place
from lamina.federation.privacy.wire import update_from_bytes
from lamina.federation.server.rounds import FederatedRun, RunSettings
from lamina.federation.server.scores import EVALUATED
from lamina.federation.state import Scaling
from lamina.federation.work import Down, Reply, Work
from lamina.orchestration.cluster import choose_devices, cluster
from lamina.orchestration.federated.chunks import (
    Answer,
    Bound,
    Chunk,
    LearningDesk,
    broadcast,
    chunks_of,
    desk_of,
    stops_of,
    turned_of,
)
from lamina.orchestration.federated.pool import LocalPool, Pool, RayPool
from lamina.orchestration.federated.round_store import RoundStore
from lamina.registry import InputError
from lamina.streams.manifest import StreamManifest
from lamina.streams.manifest_file import write_manifest
from lamina.training.checkpoint import pack

CHUNKS = 8
"""Into so many chunks a work is cut, whatever the number of hosts."""
MANIFEST = "manifest.json"
Event = Mapping[str, Any]


@dataclass(frozen=True)
class Federated:
    """What a federated run left."""

    run: FederatedRun
    sha: str
    """Of the final global tensors and ledger."""
    manifest: StreamManifest
    local: Mapping[int, Bound]
    """By client, what it reaches alone; empty without bounds."""
    central: Bound | None
    """What one learner reaches on the rows of all."""


def run_federated(
    job: Job,
    raw: Stream[Samples],
    on_event: Callable[[Event], None],
    *,
    in_process: bool = False,
) -> Federated:
    """Run a job's federation in its output folder, from where an earlier run was killed.

    `on_event` is told `federation_started` (`rounds`, `clients`, `manifest`, `config`, `done`),
    `host_ready` (`host`, `process`), `work_done` (`kind`, `round`, `task`, `metrics`, `place`) and
    `bounds_started`. With `in_process` there is no Ray.

    Raises InputError where the job has no federation or its clients cannot be had.
    """
    if job.federation is None:
        raise InputError("federation: missing (allowed: a mapping; see jobs/federated_*.yaml)")
    folder = job.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    manifest = manifest_of(job, raw)
    write_manifest(manifest, folder / MANIFEST)
    run = FederatedRun(settings_of_run(job, raw, manifest))
    store = RoundStore(folder, config_of(job, manifest))
    kept = store.latest()
    if kept is not None:
        run.load_state_dict(kept)
    on_event(
        {
            "event": "federation_started",
            "rounds": run.num_rounds,
            "clients": len(manifest),
            "manifest": manifest.hash,
            "config": config_of(job, manifest),
            "done": run.version,
        }
    )
    if in_process:
        torch.set_num_threads(job.hosts.threads)
        desk = desk_of(job.mapping, raw, manifest, torch.device("cpu"))
        return _run(job, run, LocalPool(desk), store, manifest, on_event)
    with cluster():
        shared = (ray.put(raw), ray.put(manifest))
        devices = choose_devices(job.hosts)
        pool = RayPool(partial(_make_desk, job.mapping), devices, shared)
        try:
            for host, process in enumerate(pool.processes()):
                on_event({"event": "host_ready", "host": f"host-{host}", "process": process})
            return _run(job, run, pool, store, manifest, on_event)
        finally:
            pool.close()


class ClientStore(Protocol):
    """Where what clients keep is, and where the state of a run is kept."""

    def put(self, content: bytes) -> str:
        """Keep what a client keeps; returns its digest."""
        ...

    def get(self, digest: str) -> bytes:
        """What `digest` names."""
        ...

    def replaced(self, digest: str | None) -> None:
        """It is of no use once the next state is kept."""
        ...

    def keep(self, run: FederatedRun) -> None:
        """Make the state of a run the last one."""
        ...


def advance(
    run: FederatedRun, pool: Pool, store: ClientStore
) -> Iterator[tuple[Work, dict[str, float]]]:
    """Do all that is left of a run, work by work, and keep its state after each."""
    noticeboard = _Noticeboard(pool)
    while (work := run.work()) is not None:
        chunks, down = noticeboard.chunks(run, work, store)
        replies = [_reply(each, store) for answers in pool.do(chunks) for each in answers]
        before = {client: run.own.get(client) for client in _clients_of(work)}
        metrics = run.apply(work, replies, down)
        if work.stop.kind == "train":
            _discard(run, work, replies, before, store)
        store.keep(run)
        yield work, metrics


def drive(
    run: FederatedRun, pool: Pool, store: ClientStore, on_event: Callable[[Event], None]
) -> None:
    """`advance`, told as events."""
    for work, metrics in advance(run, pool, store):
        on_event(
            {
                "event": "work_done",
                "kind": work.stop.kind,
                "round": work.stop.round,
                "task": work.stop.task,
                "place": run.place,
                "metrics": metrics,
            }
        )


def settings_of_run(job: Job, raw: Stream[D], manifest: StreamManifest) -> RunSettings:
    """What the state machine must know of a job.

    Raises InputError where clients are at tasks of their own and the strategy cannot learn so.
    """
    assert job.federation is not None
    federation, settings = job.federation, job.federation.settings
    check_step(job, manifest)
    scale = job.adapter.alpha / job.adapter.rank if isinstance(job.adapter, LoRA) else 1.0
    ids: dict[tuple[Part, int], Tensor] = {
        (part, place): each.part(part).ids.sort().values
        for place, each in enumerate(raw.experiences)
        for part in EVALUATED
    }
    return RunSettings(
        manifest=manifest,
        timetable=stops_of(job, manifest),
        aggregator=federation.aggregator,
        optimiser=federation.server_optimiser,
        cohort=settings.cohort(len(manifest)),
        clock=federation.clock,
        local=settings.local,
        batch_size=job.training.batch_size,
        seed=job.seed,
        # One kind lays over factors of every rank, with one scale.
        scaling=Scaling(alpha=scale, power=0.0),
        ranks=settings.ranks,
        personal=federation.aggregator.keeps_client_state,
        ids=ids,
        controls=federation.drift.name == "scaffold",
        private=federation.private_sum(len(manifest), job.seed),
        row_privacy=federation.row_privacy,
    )


def config_of(job: Job, manifest: StreamManifest) -> str:
    """A digest of all that the results of a federated job depend on."""
    return digest_of([without_place(job.settings()), manifest.hash])


def _run(
    job: Job,
    run: FederatedRun,
    pool: Pool,
    store: RoundStore,
    manifest: StreamManifest,
    on_event: Callable[[Event], None],
) -> Federated:
    assert job.federation is not None
    drive(run, pool, store, on_event)
    local: dict[int, Bound] = {}
    central = None
    if job.federation.settings.bounds:
        central, local = _bounds(job, pool, store, manifest, on_event)
    sha = run.state.digest()
    return Federated(run, sha, manifest, local, central)


def _bounds(
    job: Job,
    pool: Pool,
    store: RoundStore,
    manifest: StreamManifest,
    on_event: Callable[[Event], None],
) -> tuple[Bound, dict[int, Bound]]:
    """What one learner reaches on all rows, and each client alone: as kept, or trained now."""
    kept = store.bounds()
    if kept is None:
        on_event({"event": "bounds_started"})
        passes = passes_of(job, manifest)
        clients = [None, *range(len(manifest))]
        found = pool.call("bound", [(client, passes) for client in clients])
        kept = [asdict(each) for each in found]
        store.keep_bounds(kept)
    central, *local = (Bound(each["rows"], tuple(each["tasks"])) for each in kept)
    return central, dict(enumerate(local))


def passes_of(job: Job, manifest: StreamManifest) -> float:
    """How often a client's row of a task is passed over in the rounds of that task, on average: the
    budget of the bounds."""
    assert job.federation is not None
    settings, number = job.federation.settings, len(manifest)
    asked = settings.cohort(number)
    wanted = asked.buffer if settings.mode == "buffered" else asked.size
    passes = float(settings.local_epochs)
    if settings.local_steps is not None:
        sizes = [len(each.rows) for client in range(number) for each in manifest.events(client)]
        passes = settings.local_steps * job.training.batch_size * len(sizes) / sum(sizes)
    return settings.rounds * min(wanted / number, 1.0) * passes


def _make_desk(mapping: Mapping[str, Any], is_gpu: bool, *shared: Any) -> LearningDesk:
    raw, manifest = shared
    return desk_of(mapping, raw, manifest, torch.device("cuda" if is_gpu else "cpu"))


class _Noticeboard:
    """What every desk can read: the global states, the frame, what clients said. Each is put up
    once, and taken down when no more work needs it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._sizes: dict[str, int] = {}

    def chunks(self, run: FederatedRun, work: Work, store: ClientStore) -> tuple[list[Chunk], Down]:
        """A work cut into chunks, and what each of its clients is sent."""
        versions = {run.version, *run.past, *(item.version for item in work.items)}
        states = {version: f"state {run.frame_number}.{version}" for version in sorted(versions)}
        for version, key in states.items():
            self._put(key, partial(broadcast, run.state_of(version)))
        frame = summary = None
        if run.frame is not None:
            frame = f"frame {run.frame_number}"
            self._put(frame, partial(pack, run.frame.plain()))
        if run.summary is not None:
            summary = f"summary {run.place}"
            self._put(summary, partial(pack, dict(run.summary.sums)))
        stale = sorted(self._sizes.keys() - {frame, summary, *states.values()})
        self._pool.forget(stale)
        for key in stale:
            del self._sizes[key]
        owns = [_own(run, store, item.client) for item in work.items]
        chunks = [
            Chunk(work.stop, work.items[each], tuple(owns[each]), frame, states, summary)
            for each in chunks_of(work.items, CHUNKS)
        ]
        frame_size = 0 if frame is None else self._sizes[frame]
        return chunks, Down(self._sizes[states[run.version]], frame_size)

    def _put(self, key: str, make: Callable[[], bytes]) -> None:
        if key not in self._sizes:
            content = make()
            self._sizes[key] = len(content)
            self._pool.publish(key, content)


def _discard(
    run: FederatedRun,
    work: Work,
    replies: Sequence[Reply],
    before: Mapping[int, str | None],
    store: ClientStore,
) -> None:
    """What clients kept until now, and what a refused one wanted to keep, is of no use any more."""
    for item, reply in zip(work.items, replies, strict=True):
        if item.client is not None:
            for digest in (before.get(item.client), reply.own):
                if digest != run.own.get(item.client):
                    store.replaced(digest)


def _clients_of(work: Work) -> list[int]:
    return [item.client for item in work.items if item.client is not None]


def _own(run: FederatedRun, store: ClientStore, client: int | None) -> bytes | None:
    digest = None if client is None else run.own.get(client)
    return None if digest is None else store.get(digest)


def _reply(answer: Answer, store: ClientStore) -> Reply:
    """An answer, read. What cannot be read is damage, which the run counts."""
    if answer.update is None:
        turned = None if answer.turned is None else turned_of(answer.turned)
        return Reply(turned=turned, flags=answer.flags, declared=answer.declared)
    own = None
    if answer.own is not None:
        own = store.put(answer.own)
    try:
        update = update_from_bytes(answer.update)
        return Reply(update, len(answer.update), own, flags=answer.flags)
    except InputError:
        return Reply(None, len(answer.update), own, damage="unreadable")
