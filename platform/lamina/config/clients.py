"""Which client of a federated job has which rows when, and whether its strategy can learn so."""

from lamina.adapters.kinds.lora import LoRA
from lamina.config.job import Job
from lamina.core import D, Stream
from lamina.federation.fitness import previews, reviews
from lamina.federation.timetable import is_in_step
from lamina.registry import InputError
from lamina.streams.dealing import make_manifest
from lamina.streams.manifest import StreamManifest
from lamina.streams.manifest_file import read_manifest


def manifest_of(job: Job, raw: Stream[D]) -> StreamManifest:
    """The manifest that a federated job names, or the one that its partition and arrival make."""
    assert job.federation is not None
    federation, settings = job.federation, job.federation.settings
    if settings.manifest is not None:
        return read_manifest(settings.manifest, raw)
    table = job.stream.load(job.seed)
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
