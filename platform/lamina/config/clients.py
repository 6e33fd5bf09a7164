"""Who the clients of a federated job are, whether its strategy can learn so, and what server and
clients of a run are built from."""

from torch import Tensor

from lamina.adapters.kinds.lora import LoRA
from lamina.backbones.backbone import Backbone
from lamina.config.job import Job
from lamina.core import Batch, D, Part, Stream
from lamina.evaluation.measures import DEFAULTS
from lamina.federation.client.setup import ClientSetup
from lamina.federation.fitness import previews, reviews
from lamina.federation.server.run_settings import RunSettings
from lamina.federation.server.scores import EVALUATED
from lamina.federation.state import Scaling
from lamina.federation.timetable import Entry, is_in_step, timetable
from lamina.registry import InputError
from lamina.streams import load_table
from lamina.streams.dealing import make_manifest
from lamina.streams.manifest import StreamManifest
from lamina.streams.manifest_file import read_manifest


def manifest_of(job: Job, raw: Stream[D]) -> StreamManifest:
    """The manifest that a federated job names, or the one that its partition and arrival make."""
    assert job.federation is not None
    federation, settings = job.federation, job.federation.settings
    if settings.manifest is not None:
        return read_manifest(settings.manifest, raw)
    table = load_table(job.stream, job.scenario, job.seed)
    return make_manifest(
        raw, settings.clients, federation.partition, federation.arrival, job.seed, table
    )


def check_clients(job: Job, raw: Stream[D]) -> None:
    """Raises InputError where clients come to be at tasks of their own and the strategy cannot
    learn so, or where a client's rank is above the adapter's. The manifest is only made where it
    can be the reason."""
    if job.federation is None:
        return
    _check_ranks(job)
    if _wants_step(job) is not None:
        check_step(job, manifest_of(job, raw))


def check_step(job: Job, manifest: StreamManifest) -> None:
    """Raises InputError where the clients of a manifest are at tasks of their own and the strategy
    cannot learn so."""
    why = _wants_step(job)
    if why is None or is_in_step(manifest):
        return
    assert job.federation is not None
    key = "arrival" if job.federation.settings.manifest is None else "manifest"
    raise InputError(
        f"federation.{key}: clients come to be at tasks of their own, and {why} (allowed: all "
        "clients get their k-th task in the k-th step)"
    )


def _check_ranks(job: Job) -> None:
    """A client takes the first rows of the global factors, which have no more than the adapter's
    rank."""
    assert job.federation is not None
    largest = max(job.federation.settings.ranks, default=0)
    if isinstance(job.adapter, LoRA) and largest > job.adapter.rank:
        raise InputError(
            f"federation.ranks: {largest} is more than a client can have, as adapter.rank is "
            f"{job.adapter.rank} (allowed: 1 to {job.adapter.rank})"
        )


def _wants_step(job: Job) -> str | None:
    """Why clients can only be at one task together; None if they need not be."""
    assert job.federation is not None
    strategy = type(job.strategy)
    if not strategy.takes_gradient_steps(job.adapter is not None):
        return None
    if strategy.grows:
        return (
            f"strategy {job.strategy_name!r} trains tensors in later tasks that clients at their "
            "first do not have"
        )
    if job.federation.row_privacy is not None and (previews(strategy) or reviews(strategy)):
        return (
            "unit 'example' of federation.privacy does not hide the sums over rows that strategy "
            f"{job.strategy_name!r} takes at a client"
        )
    return None


def settings_of_run(job: Job, raw: Stream[D], manifest: StreamManifest) -> RunSettings:
    """What the state machine must know of a job.

    Raises InputError where clients are at tasks of their own and the strategy cannot learn so.
    """
    assert job.federation is not None
    federation, settings = job.federation, job.federation.settings
    check_step(job, manifest)
    scale = job.adapter.alpha / job.adapter.rank if isinstance(job.adapter, LoRA) else 1.0
    ids: dict[tuple[Part, int], Tensor] = {
        (part, task): each.part(part).ids.sort().values
        for task, each in enumerate(raw.experiences)
        for part in EVALUATED
    }
    return RunSettings(
        manifest=manifest,
        timetable=timetable_of(job, manifest),
        aggregator=federation.aggregator,
        optimiser=federation.server_optimiser,
        participants=settings.participants(len(manifest)),
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
        measure=DEFAULTS[raw.answers],
        row_privacy=federation.row_privacy,
    )


def timetable_of(job: Job, manifest: StreamManifest) -> tuple[Entry, ...]:
    """The timetable of a job."""
    assert job.federation is not None
    rounds = job.federation.settings.rounds
    return timetable(manifest, type(job.strategy), job.adapter is not None, rounds)


def tasks_at_server(job: Job, manifest: StreamManifest) -> bool:
    """Whether tasks begin and end for all clients at once."""
    return any(entry.kind == "end" for entry in timetable_of(job, manifest))


def passes_of(job: Job, manifest: StreamManifest) -> float:
    """How often a client's row of a task is passed over in the rounds of that task, on average: the
    budget of the bounds."""
    assert job.federation is not None
    settings, number = job.federation.settings, len(manifest)
    asked = settings.participants(number)
    wanted = asked.buffer if settings.mode == "buffered" else asked.size
    passes = float(settings.local_epochs)
    if settings.local_steps is not None:
        sizes = [len(each.rows) for client in range(number) for each in manifest.deliveries(client)]
        passes = settings.local_steps * job.training.batch_size * len(sizes) / sum(sizes)
    return settings.rounds * min(wanted / number, 1.0) * passes


def client_setup(
    job: Job, backbone: Backbone, stream: Stream[Batch], manifest: StreamManifest
) -> ClientSetup:
    """What the work of a job's clients on an encoded stream depends on."""
    assert job.federation is not None, "only a job with a federation has clients"
    federation = job.federation
    return ClientSetup(
        strategy=job.strategy,
        adapter=job.adapter,
        memory=job.memory,
        training=job.training,
        local=federation.settings.local,
        aggregator=federation.aggregator,
        seed=job.seed,
        stream=stream,
        manifest=manifest,
        in_step=tasks_at_server(job, manifest),
        backbone=backbone,
        drift=federation.drift,
        privacy=federation.privacy,
        ranks=federation.settings.ranks,
    )
