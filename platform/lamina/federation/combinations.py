"""What cannot be combined in a federated job, and why: asked when the job is read."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from lamina.federation.aggregators.base import Aggregator
from lamina.federation.aggregators.krum import Krum
from lamina.federation.optimisers.base import ServerOptimiser

Mode = Literal["synchronous", "deadline", "buffered"]
Drift = Literal["fedprox", "scaffold"]


@dataclass(frozen=True)
class Combination:
    """The methods that a federated job combines."""

    aggregator: Aggregator
    server_optimiser: ServerOptimiser | None = None
    drift: Drift | None = None
    """The correction against client drift."""
    local_optimiser: str = "adamw"
    """The optimiser of the clients."""
    mode: Mode = "synchronous"
    """For whom a round waits."""
    secure: bool = False
    """Whether the server sees the sum of the updates only (secure aggregation)."""
    client_privacy: bool = False
    """Whether a client's whole update is clipped and the sum noised (DP-FedAvg)."""
    example_privacy: bool = False
    """Whether clients put noise on their steps (DP-SGD)."""
    adapter: str | None = "lora"
    """The job's adapter kind."""
    ranks: Collection[int] = ()
    """The LoRA ranks of the clients, where they have their own."""
    clients_per_round: int | None = None
    """How many updates a round can have at most."""


def impossible(job: Combination) -> list[str]:
    """Why this cannot be, a sentence each; empty where it can."""
    return [*_of_sums(job), *_of_factors(job), *_of_time(job), *_of_drift(job), *_of_size(job)]


def _of_sums(job: Combination) -> Iterator[str]:
    name = job.aggregator.name
    if job.secure and not job.aggregator.linear:
        yield (
            f"aggregator {name!r} needs every client's update by itself; secure aggregation shows "
            "the server their sum only"
        )
    if job.client_privacy and not job.aggregator.linear:
        yield (
            f"aggregator {name!r} is no sum over clients; differential privacy clips updates and "
            "adds noise to their sum"
        )
    if job.client_privacy and job.aggregator.weighting == "rows":
        yield (
            "weighting 'rows' lets a client with many rows count more than the clipping bound "
            "says; differential privacy needs weighting 'equal'"
        )
    if job.client_privacy and job.aggregator.needs_grams:
        yield (
            f"aggregator {name!r} needs the Gram matrices of the clients' inputs, which "
            "differential privacy of the update neither clips nor noises"
        )
    if job.example_privacy and job.aggregator.needs_grams:
        yield (
            f"aggregator {name!r} needs the Gram matrices of the clients' inputs, which the noise "
            "on their steps does not hide"
        )


def _of_factors(job: Combination) -> Iterator[str]:
    name = job.aggregator.name
    if job.aggregator.needs_lora and job.adapter != "lora":
        yield f"aggregator {name!r} is about LoRA's factors; the job's adapter is {job.adapter!r}"
    if job.ranks and not job.aggregator.mixed_ranks:
        yield (
            f"aggregator {name!r} adds factors of one shape; clients of ranks of their own, "
            f"{', '.join(map(str, sorted(set(job.ranks))))} need 'flora' or 'flexlora'"
        )
    if job.server_optimiser is not None and job.aggregator.refactorises:
        yield (
            f"aggregator {name!r} finds new factors in every round; the momentum that a server "
            "optimiser keeps belongs to the old ones"
        )
    if job.server_optimiser is not None and job.aggregator.uses_ledger:
        yield (
            f"aggregator {name!r} measures its residual against the factors that it leaves; a "
            "server optimiser would move them away from it"
        )


def _of_time(job: Combination) -> Iterator[str]:
    name = job.aggregator.name
    if job.mode != "buffered":
        return
    if len(job.aggregator.phases) > 1:
        yield (
            f"aggregator {name!r} alternates between factors; in buffered mode an update may come "
            "from another phase, whose frozen factor is not the one that it would be joined with"
        )
    if job.aggregator.refactorises:
        yield (
            f"aggregator {name!r} finds new factors in every round; in buffered mode an update is "
            "a difference from factors that are there no more"
        )
    if not job.aggregator.linear and not job.aggregator.refactorises:
        yield (
            f"aggregator {name!r} compares or multiplies updates of one start; in buffered mode "
            "they start from different states"
        )


def _of_drift(job: Combination) -> Iterator[str]:
    if job.drift != "scaffold":
        return
    if job.local_optimiser != "sgd":
        yield (
            "SCAFFOLD's control variates are gradients only under plain SGD at one learning rate; "
            f"the job trains with {job.local_optimiser!r}"
        )
    if job.aggregator.refactorises:
        yield (
            f"aggregator {job.aggregator.name!r} finds new factors in every round; SCAFFOLD's "
            "control variates are gradients of the old ones"
        )
    if job.aggregator.by_task:
        yield (
            f"aggregator {job.aggregator.name!r} keeps a copy of what is trained for each task; "
            "SCAFFOLD's control variates are gradients of one copy"
        )
    if job.client_privacy:
        yield (
            "SCAFFOLD sends control variates beside the update, which differential privacy of the "
            "update neither clips nor noises"
        )
    if job.mode == "buffered":
        yield "SCAFFOLD's shared control variate is of one round; in buffered mode there is none"


def _of_size(job: Combination) -> Iterator[str]:
    if isinstance(job.aggregator, Krum) and job.clients_per_round is not None:
        fewest = job.aggregator.fewest
        if job.clients_per_round < fewest:
            yield (
                f"aggregator 'krum' with byzantine = {job.aggregator.byzantine} needs "
                f"2 * byzantine + 3 = {fewest} clients a round; {job.clients_per_round} are asked"
            )
