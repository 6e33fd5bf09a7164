"""How the updates of a round become one sum: seen one by one, or only as a sum."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch

from lamina.core import seed_of
from lamina.federation.privacy.quantise import Quantiser, Tensors, Words, plain_sum
from lamina.federation.privacy.secure_sum import SumAbortedError, SumClient, SumServer
from lamina.registry import InputError, unknown

Mode = Literal["off", "ideal", "real"]
Stage = Literal["keys", "shares", "masked", "unmask"]
"""The messages of a client in a secure sum, in order."""
STAGES: tuple[Stage, ...] = get_args(Stage)


@dataclass(frozen=True)
class SecureSum:
    """How a round's updates are added up."""

    mode: Mode = "off"
    """`off`: in float64, every update in the server's hands. `real`: quantised, masked, and only
    the sum is seen. `ideal`: the same sum to the bit without the cryptography, for simulations."""
    limit: float = 1.0
    """R: each value of an update is clipped to [-R, R] before it is quantised."""
    bits: int = 16
    """How many bits a value keeps."""
    threshold: float = 2 / 3
    """The share of the round's clients that must stay to the end; above one half, so that no server
    can ask two disjoint groups for the two secrets of a client."""

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise unknown("privacy.secure_sum.mode", self.mode, get_args(Mode))
        if not 0.5 < self.threshold <= 1:
            raise InputError(f"privacy.secure_sum.threshold: {self.threshold} is not in (0.5, 1]")
        _ = self.quantiser

    @property
    def quantiser(self) -> Quantiser:
        """Numbers to words and back."""
        return Quantiser(self.limit, self.bits)

    def least(self, num_clients: int) -> int:
        """How many of so many clients must stay: more than half, and at least two, for a sum of one
        is no secret."""
        return max(2, num_clients // 2 + 1, math.ceil(self.threshold * num_clients - 1e-9))


@dataclass(frozen=True)
class Summed:
    """A sum of updates."""

    total: dict[str, torch.Tensor]
    """float64, by name."""
    clients: tuple[str, ...]
    """The clients whose updates are in the sum, in their order."""
    bytes_up: Mapping[str, int] = field(default_factory=dict)
    """Bytes that each client sent; counted in mode `real`."""
    bytes_down: Mapping[str, int] = field(default_factory=dict)
    """Bytes that each client received; counted in mode `real`."""


def sum_of(
    clients: Sequence[str],
    updates: Mapping[str, Tensors],
    settings: SecureSum,
    seed: int,
    round_: int,
    lost: Mapping[str, Stage] | None = None,
) -> Summed:
    """The sum of the updates (equal names and shapes) of a round's clients, in their order.

    `lost` names clients that fell silent before they sent the message of a stage; one without an
    update is lost before `masked` at the latest. Whoever is lost before `masked` is not in the sum;
    whoever is lost before `unmask` is. In every mode but `off`, SumAbortedError is raised when a
    stage is left with fewer than `settings.least` clients, or nobody has an update.
    """
    last = {client: _reached(client, updates, lost or {}) for client in clients}
    inside = tuple(client for client in clients if last[client] > STAGES.index("masked"))
    if not inside:
        raise SumAbortedError("no client has sent an update")
    like = updates[inside[0]]
    if settings.mode == "off":
        total = {
            name: torch.stack([updates[client][name].double() for client in inside]).sum(dim=0)
            for name in sorted(like)
        }
        return Summed(total, inside)
    quantiser, least = settings.quantiser, settings.least(len(clients))
    if len(clients) < least:
        raise SumAbortedError(f"{len(clients)} clients are here, {least} are needed")
    quantiser.check_clients(len(clients))
    vectors = {client: quantiser.encode(updates[client], seed, round_, client) for client in inside}
    if settings.mode == "ideal":
        staying = sum(each == len(STAGES) for each in last.values())
        if staying < least:
            raise SumAbortedError(f"{staying} clients are left, {least} are needed")
        words = plain_sum(list(vectors.values()))
        return Summed(quantiser.decode(words, len(inside), like), inside)
    numbers = {client: number for number, client in enumerate(clients, start=1)}
    run = _Run(
        {numbers[client]: vector for client, vector in vectors.items()},
        {numbers[client]: stage for client, stage in last.items()},
        least,
        f"lamina/{seed_of(seed, 'secure sum', round_)}".encode(),
    )
    words = run.total()
    return Summed(
        quantiser.decode(words, len(inside), like),
        inside,
        {client: run.up[number] for client, number in numbers.items()},
        {client: run.down[number] for client, number in numbers.items()},
    )


def _reached(client: str, updates: Mapping[str, Tensors], lost: Mapping[str, Stage]) -> int:
    """How many of the four messages a client sends."""
    stage = STAGES.index(lost[client]) if client in lost else len(STAGES)
    return stage if client in updates else min(stage, STAGES.index("masked"))


class _Run:
    """All clients and the server of one secure sum in one process, and what travels."""

    def __init__(
        self, vectors: Mapping[int, Words], last: Mapping[int, int], least: int, session: bytes
    ) -> None:
        self.vectors = vectors
        self.last = last
        self.clients = {number: SumClient(number, len(last), least, session) for number in last}
        self.server = SumServer(len(last), least, len(next(iter(vectors.values()))), session)
        self.up = dict.fromkeys(last, 0)
        self.down = dict.fromkeys(last, 0)

    def total(self) -> Words:
        """The four stages, one after the other."""
        clients, server = self.clients, self.server
        roster = server.roster(self._sent(clients[i].advertise() for i in self._at("keys")))
        weight = sum(each.num_bytes for each in roster)
        self._received({each.sender: weight for each in roster})
        inboxes = server.inboxes(self._sent(clients[i].share(roster) for i in self._at("shares")))
        self._received(
            {i: sum(4 + len(data) for data in box.values()) for i, box in inboxes.items()}
        )
        request = server.request(
            self._sent(clients[i].masked(self.vectors[i], inboxes[i]) for i in self._at("masked"))
        )
        self._received(dict.fromkeys(request.survivors, request.num_bytes))
        return server.total(self._sent(clients[i].unmask(request) for i in self._at("unmask")))

    def _at(self, stage: Stage) -> list[int]:
        return [number for number, last in self.last.items() if last > STAGES.index(stage)]

    def _sent(self, messages: Any) -> list[Any]:
        sent = list(messages)
        for message in sent:
            self.up[message.sender] += message.num_bytes
        return sent

    def _received(self, weights: Mapping[int, int]) -> None:
        for number, weight in weights.items():
            self.down[number] += weight
