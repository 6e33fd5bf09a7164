"""A federated run from its first round to its last: the state machine, the hosts that do its work,
and the store that keeps it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import ray
import torch

from lamina.backbones.content import backbone_digest
from lamina.backbones.copies import is_folder, keep_copy
from lamina.config import Job
from lamina.config.clients import manifest_of, passes_of, settings_of_run
from lamina.core import Samples, Stream
from lamina.digests import digest_of, without_where
from lamina.federation.privacy.wire import update_from_bytes
from lamina.federation.server.outcome import Bound
from lamina.federation.server.rounds import FederatedRun
from lamina.federation.work import Reply, Work
from lamina.files import alone_in
from lamina.orchestration.backbone_copies import put_copy
from lamina.orchestration.cluster import choose_devices, cluster
from lamina.orchestration.federated.broadcasts import Broadcasts, ClientStore
from lamina.orchestration.federated.chunks import ItemResult, boundary_of
from lamina.orchestration.federated.pool import LocalPool, Pool, RayPool
from lamina.orchestration.federated.round_store import RoundStore
from lamina.orchestration.federated.worker import LearningWorker, worker_of
from lamina.registry import InputError
from lamina.streams.manifest import StreamManifest
from lamina.streams.manifest_file import write_manifest

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Federated:
    """The results of a federated run."""

    run: FederatedRun
    sha: str
    """The SHA-256 of the final global tensors and ledger."""
    manifest: StreamManifest
    local: Mapping[int, Bound]
    """By client, what it reaches alone; empty without bounds."""
    central: Bound | None
    """The accuracy of one central learner on the rows of all clients."""


def run_federated(
    job: Job,
    raw: Stream[Samples],
    on_event: Callable[[Mapping[str, Any]], None],
    *,
    in_process: bool = False,
) -> Federated:
    """Run a job's federation in its output folder, from where an earlier run was killed.

    `on_event` is told `state_damaged` (`damage`, `done`: the rounds that are over in the state
    before, from which it goes on), `federation_started` (`rounds`, `clients`, `manifest`, `config`,
    `done`), `host_ready` (`host`, `process`), `host_lost` (`host`, `error`), `hosts_missing`
    (`needs`: what no machine has now), `work_done` (`kind`, `round`, `task`, `metrics`, `num_done`)
    and `bounds_started`. With `in_process` there is no Ray.

    Raises InputError where the job has no federation or its clients cannot be had.
    """
    if job.federation is None:
        raise InputError("federation: missing (allowed: a mapping; see jobs/federated_*.yaml)")
    with alone_in(job.output_dir):
        return _run_alone(job, raw, on_event, in_process)


def _run_alone(
    job: Job,
    raw: Stream[Samples],
    on_event: Callable[[Mapping[str, Any]], None],
    in_process: bool,
) -> Federated:
    """`run_federated`, while no other process runs in the folder."""
    folder = job.output_dir
    manifest = manifest_of(job, raw)
    write_manifest(manifest, folder / MANIFEST)
    run = FederatedRun(settings_of_run(job, raw, manifest))
    store = RoundStore(folder, config_of(job, manifest))
    kept = store.latest()
    if kept is not None:
        run.load_state_dict(kept)
    for damage in store.damaged:
        on_event({"event": "state_damaged", "damage": damage, "done": run.server.version})
    on_event(
        {
            "event": "federation_started",
            "rounds": run.settings.num_rounds,
            "clients": len(manifest),
            "manifest": manifest.hash,
            "config": config_of(job, manifest),
            "done": run.server.version,
        }
    )
    if in_process:
        torch.set_num_threads(job.hosts.threads)
        worker = worker_of(job.mapping, raw, manifest, torch.device("cpu"))
        return _run(job, run, LocalPool(worker), store, manifest, on_event)
    with cluster():
        shared = (ray.put(raw), ray.put(manifest), *put_copy(job.backbone.name))
        devices = choose_devices(job.hosts)
        pool = RayPool(partial(_make_worker, job.mapping), devices, shared, on_event)
        try:
            return _run(job, run, pool, store, manifest, on_event)
        finally:
            pool.close()


def advance(
    run: FederatedRun, pool: Pool, store: ClientStore
) -> Iterator[tuple[Work, dict[str, float]]]:
    """Do all that is left of a run, work by work, and keep its state after each."""
    broadcasts = Broadcasts(pool)
    while (work := run.work()) is not None:
        chunks, down = broadcasts.chunks(run.server, work, store)
        replies = [_reply(each, store) for answers in pool.do(chunks) for each in answers]
        before = {client: run.server.client_states.get(client) for client in _clients_of(work)}
        metrics = run.apply(work, replies, down)
        if work.entry.kind == "train":
            _discard(run, work, replies, before, store)
        # The updates of two rounds are never in memory together.
        del replies
        store.keep(run.server)
        yield work, metrics


def drive(
    run: FederatedRun, pool: Pool, store: ClientStore, on_event: Callable[[Mapping[str, Any]], None]
) -> None:
    """Run `advance` to the end, and report its events."""
    for work, metrics in advance(run, pool, store):
        on_event(
            {
                "event": "work_done",
                "kind": work.entry.kind,
                "round": work.entry.round,
                "task": work.entry.task,
                "num_done": run.server.num_done,
                "metrics": metrics,
            }
        )


def config_of(job: Job, manifest: StreamManifest) -> str:
    """A digest of all that the results of a federated job depend on."""
    model = backbone_digest(job.backbone.name)
    return digest_of([without_where(job.settings()), manifest.hash, model])


def _run(
    job: Job,
    run: FederatedRun,
    pool: Pool,
    store: RoundStore,
    manifest: StreamManifest,
    on_event: Callable[[Mapping[str, Any]], None],
) -> Federated:
    assert job.federation is not None
    drive(run, pool, store, on_event)
    local: dict[int, Bound] = {}
    central = None
    if job.federation.settings.bounds:
        central, local = _bounds(job, pool, store, manifest, on_event)
    sha = run.server.global_state.digest()
    return Federated(run, sha, manifest, local, central)


def _bounds(
    job: Job,
    pool: Pool,
    store: RoundStore,
    manifest: StreamManifest,
    on_event: Callable[[Mapping[str, Any]], None],
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
    central, *local = (
        Bound(each["rows"], tuple(each["tasks"]), each.get("error")) for each in kept
    )
    return central, dict(enumerate(local))


def _make_worker(mapping: Mapping[str, Any], is_gpu: bool, *shared: Any) -> LearningWorker:
    raw, manifest, *copy = shared
    if copy and not is_folder(mapping["backbone"]["name"]):
        keep_copy(mapping["backbone"]["name"], *copy)
    return worker_of(mapping, raw, manifest, torch.device("cuda" if is_gpu else "cpu"))


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
            for digest in (before.get(item.client), reply.client_state):
                if digest != run.server.client_states.get(item.client):
                    store.replaced(digest)


def _clients_of(work: Work) -> list[int]:
    return [item.client for item in work.items if item.client is not None]


def _reply(answer: ItemResult, store: ClientStore) -> Reply:
    """An answer, read. What cannot be read is damage, which the run counts."""
    if answer.update is None:
        boundary = None if answer.boundary is None else boundary_of(answer.boundary)
        return Reply(boundary=boundary, flags=answer.flags, declared=answer.declared)
    digest = None if answer.client_state is None else store.put(answer.client_state)
    try:
        update = update_from_bytes(answer.update)
        return Reply(update, len(answer.update), digest, flags=answer.flags)
    except InputError:
        return Reply(None, len(answer.update), digest, damage="unreadable")
