"""What an aggregator is. The round that calls it, in full:

    state = GlobalState(tensors, scaling, seed)                         # once
    for round in ...:
        for client in sampled:
            key = aggregator.key_of(task of the client)
            tensors = aggregator.starting_tensors(state, own[client], rank_of(client), key)
            train those with aggregator.trains(round, name), freeze the others
            own[client] = those with aggregator.keeps(name)             # kept at the client
            ClientUpdate(tensors: those with aggregator.sends(round, name),
                         phase: key or aggregator.phase(round), base: state.digest(), ...)
        after = aggregator.aggregate(state, accepted updates)           # lamina.federation.checking
        state = server_optimiser.apply(state, after)
        state = aggregator.after_boundary(state, tensors, key)          # a task begins or ends

All of it is pure: no Ray, no files, no clock. `aggregate` adds in the order of the clients' names
and in float64, so the order of arrival changes no byte. Without updates the state stays as it is,
and so does, as the same object, every tensor that nobody sent.
An aggregator that is `linear` is two functions, `share` of one update and `finish` of the sum of
the shares, so that sums may be partial, masked or noised in between.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lamina.federation.algebra.rows import added, extended
from lamina.federation.state import GlobalState
from lamina.federation.update import LORA_A, LORA_B, ClientUpdate, Tensors, is_factor
from lamina.registry import InputError, unknown

Weighting = Literal["rows", "equal"]
Sums = dict[str, Tensor]
"""float64 sums over clients: of a tensor times its weight under the tensor's name, and of the
weight itself under `weight_name` of it. They add (`added`)."""


@dataclass(frozen=True)
class Aggregator(ABC):
    """How updates become the next global state. Its fields are the paper's settings.

    The module's docstring is its card: `Name (Authors, year): one sentence.`, what is sent, what is
    kept at the client, how it differs from the paper. The class variables are what it can do, and
    what `lamina.federation.combinations` refuses combinations by.
    """

    weighting: Weighting = "rows"
    """Whether a client counts by the rows it trained on, or each client as much as another."""

    linear: ClassVar[bool] = False
    """Needs nothing but a sum over clients: partial sums, secure aggregation and Gaussian noise are
    possible. Others need every client's update by itself."""
    exact: ClassVar[bool] = False
    """The global update is the weighted mean of the clients' updates s B A."""
    mixed_ranks: ClassVar[bool] = False
    """Clients may train LoRAs of different ranks."""
    changes_rank: ClassVar[bool] = False
    """Whether the state that clients start from, ledger included, may grow in rank."""
    refactorises: ClassVar[bool] = False
    """Factors are found anew each round (by an SVD or a draw), so the factors of two rounds cannot
    be compared and a server optimiser has nothing to hold on to."""
    uses_ledger: ClassVar[bool] = False
    """Leaves residuals in the ledger."""
    keeps_client_state: ClassVar[bool] = False
    """Clients keep tensors of their own from round to round."""
    phases: ClassVar[tuple[str, ...]] = ("both",)
    """The factors that a round may train: `both`, or `a` or `b` only."""
    by_task: ClassVar[bool] = False
    """Whether updates of one round may be of different tasks. Their phase is then the task's
    key."""
    needs_lora: ClassVar[bool] = False
    """Says nothing of other adapter kinds that plain averaging would not."""
    needs_grams: ClassVar[bool] = False
    """Updates must bring `gram_name(module)` among their summaries."""
    robust: ClassVar[bool] = False
    """Bounds what a client that lies can do."""

    def __post_init__(self) -> None:
        if self.weighting not in ("rows", "equal"):
            raise unknown("aggregator.weighting", self.weighting, ("rows", "equal"))

    def key_of(self, task: int) -> str | None:
        """The key of a task's own tensors; None where all tasks share their tensors."""
        return f"task {task}" if self.by_task else None

    @property
    def name(self) -> str:
        """The aggregator's name in a job: its file's."""
        return type(self).__module__.rsplit(".", 1)[-1]

    def phase(self, round: int) -> str:
        """The phase of a round (from 0): what it trains, one of `phases`."""
        return self.phases[round % len(self.phases)]

    def trains(self, round: int, name: str) -> bool:
        """Whether a client trains this tensor in a round. Default: as the phase says of LoRA
        factors, and every other tensor."""
        phase = self.phase(round)
        if name.endswith(LORA_A):
            return phase != "b"
        if name.endswith(LORA_B):
            return phase != "a"
        return True

    def sends(self, round: int, name: str) -> bool:
        """Whether a client sends this tensor after a round. Default: all that it trained and does
        not keep for itself."""
        return self.trains(round, name) and not self.keeps(name)

    def keeps(self, name: str) -> bool:
        """Whether a client keeps this tensor of its own, never sent. Default: none."""
        return False

    def starting_tensors(
        self,
        state: GlobalState,
        own: Tensors | None = None,
        rank: int | None = None,
        task_key: str | None = None,
    ) -> dict[str, Tensor]:
        """The tensors that a client starts from: the global ones with its own over them.

        `rank` is the client's, where ranks may differ; `task_key` is the `key_of` the task it is
        at.
        """
        assert rank is None or self.mixed_ranks, f"{self.name} has one rank for all clients"
        return {**state.tensors, **(own or {})}

    def after_boundary(
        self, state: GlobalState, tensors: Tensors, task_key: str | None = None
    ) -> GlobalState:
        """The state with what is trained from a boundary of a task on, as the server's side of the
        strategy leaves it."""
        return replace(state, tensors=tensors)

    def aggregate(self, state: GlobalState, updates: Iterable[ClientUpdate]) -> GlobalState:
        """The state after a round. Updates of no weight do not count; without any, the state stays
        as it is."""
        ordered = sorted(updates, key=lambda update: (update.client, update.round))
        ordered = [update for update in ordered if self.weight(update) > 0]
        if not ordered:
            return state
        included = tuple(update.client for update in ordered)
        return self.combine(replace(state, included=included), ordered)

    @abstractmethod
    def combine(self, state: GlobalState, updates: Sequence[ClientUpdate]) -> GlobalState:
        """What `aggregate` does with updates in order, at least one, each of positive weight."""

    def weight(self, update: ClientUpdate) -> float:
        """The weight of an update."""
        return 1.0 if self.weighting == "equal" else float(update.num_rows)


@dataclass(frozen=True)
class LinearAggregator(Aggregator):
    """An aggregator that needs nothing but a sum. Default: the weighted mean of every tensor over
    those who sent it (`mean_share`, `mean_of`)."""

    linear: ClassVar[bool] = True

    def share(self, state: GlobalState, update: ClientUpdate) -> Sums:
        """The summand of one update."""
        return mean_share(update.tensors, self.weight(update))

    def finish(self, state: GlobalState, sums: Sums) -> GlobalState:
        """The state that the sum of all shares makes."""
        return replace(state, tensors={**state.tensors, **mean_of(sums, state.tensors)})

    def combine(self, state: GlobalState, updates: Sequence[ClientUpdate]) -> GlobalState:
        """The shares added one after the other."""
        return self.finish(state, total(self.share(state, update) for update in updates))


def refuse_weights(aggregator: Aggregator) -> None:
    """Raise InputError where clients are given weights that the aggregator cannot use."""
    if aggregator.weighting != "equal":
        raise InputError(
            f"aggregator.weighting: {aggregator.name!r} counts every client once; "
            f"{aggregator.weighting!r} is not possible (allowed: equal)"
        )


def weight_name(name: str) -> str:
    """Under which the weights of a tensor are summed."""
    return f"weight:{name}"


def mean_share(tensors: Tensors, weight: float) -> Sums:
    """weight * x of every tensor, and the weight: for each of its rows (the first dimension), so
    that a head's row is averaged over the clients that have it; one number for a LoRA's factor."""
    sums: Sums = {}
    for name, tensor in tensors.items():
        sums[name] = tensor.to(torch.float64, copy=True).mul_(weight)
        rows = () if is_factor(name) else tensor.shape[:1]
        sums[weight_name(name)] = torch.full(rows, weight, dtype=torch.float64)
    return sums


def mean_of(sums: Sums, before: Tensors) -> dict[str, Tensor]:
    """The weighted means of shares that were added, in float32 or the type they had `before`.

    Rows that nobody sent stay as before: a head is as wide as the widest, and the state's rows
    beyond it are kept.
    """
    means = {}
    for name, weights in sums.items():
        if not name.startswith("weight:"):
            continue
        name = name.removeprefix("weight:")
        summed, old = sums[name], before.get(name)
        weights = weights.reshape([*weights.shape, *[1] * (summed.dim() - weights.dim())])
        mean = summed / weights
        dtype = torch.float32 if old is None else old.dtype
        mean = mean.to(dtype)
        means[name] = mean if old is None else extended(mean, old)
    return means


def averaged(
    sent: Sequence[Tensors],
    weights: Sequence[float],
    before: Tensors,
    without: Collection[str] = (),
) -> dict[str, Tensor]:
    """The weighted mean of every tensor of `sent` over those that hold it, but for those named in
    `without` (see `mean_of`)."""
    shares = (
        mean_share({name: each[name] for name in each if name not in without}, weight)
        for each, weight in zip(sent, weights, strict=True)
    )
    return mean_of(total(shares), before)


def total(shares: Iterable[Mapping[str, Tensor]]) -> Sums:
    """Shares added one after the other, in the order given."""
    result: Sums = {}
    for share in shares:
        for name, tensor in share.items():
            so_far = result.get(name)
            if so_far is None:
                result[name] = tensor.clone()
            elif so_far.shape == tensor.shape:
                so_far += tensor
            else:
                result[name] = added(so_far, tensor)
    return result
