"""Virtual time: who is asked in a round, whose update arrives, in which order and when.

A discrete-event simulation whose durations are known before anything is computed (steps by speed,
bytes by bandwidth). So the real work may be done in any order, anywhere: it is applied in the order
of virtual arrival, and who drops out or comes too late is never computed at all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil, inf
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lamina.core import seed_of
from lamina.registry import InputError

Mode = Literal["synchronous", "deadline", "buffered"]
Fate = Literal["arrives", "drops", "is lost", "is late"]


@dataclass(frozen=True)
class ClockSettings:
    """How fast clients are, and how reliable. Seconds are virtual: nobody waits for them."""

    seconds_per_step: float = 0.1
    """Of one local step on a client of median speed."""
    speed_spread: float = 0.0
    """Sigma of the log-normal that clients' speeds are drawn from; 0: all alike."""
    bytes_per_second: float | None = None
    """Of a client of median bandwidth, up and down alike; null: the network takes no time."""
    bandwidth_spread: float = 0.0
    """Sigma of the log-normal that clients' bandwidths are drawn from."""
    availability: float = 1.0
    """The share of the clients that can be asked at any moment."""
    dropout: float = 0.0
    """The share of those asked that go away before they have trained."""
    lost_uploads: float = 0.0
    """The share of those that have trained whose update does not come through."""

    def __post_init__(self) -> None:
        for key in ("seconds_per_step", "speed_spread", "bandwidth_spread"):
            if getattr(self, key) < 0:
                raise InputError(f"federation.clock.{key}: {getattr(self, key)} is negative")
        if self.bytes_per_second is not None and self.bytes_per_second <= 0:
            raise InputError(
                f"federation.clock.bytes_per_second: {self.bytes_per_second} is not positive"
            )
        if not 0 < self.availability <= 1:
            raise InputError(f"federation.clock.availability: {self.availability} is not in (0, 1]")
        for key in ("dropout", "lost_uploads"):
            if not 0 <= getattr(self, key) < 1:
                raise InputError(f"federation.clock.{key}: {getattr(self, key)} is not in [0, 1)")


@dataclass(frozen=True)
class Participants:
    """How many clients a round asks, and for whom it waits."""

    size: int
    """Updates that a round wants; under Poisson sampling their expected number."""
    mode: Mode = "synchronous"
    sampling: Literal["fixed", "poisson"] = "fixed"
    """`fixed`: `size` clients without replacement. `poisson`: each client by itself with
    probability `size` / clients, as amplified privacy accounting assumes."""
    over_selection: float = 1.0
    """A deadline round asks so many times `size` clients and takes the first `size` that arrive."""
    deadline: float = inf
    """Seconds after which a deadline round ends."""
    buffer: int = 1
    """Arrivals that make a buffered round; `size` clients train at any moment."""


@dataclass(frozen=True)
class Start:
    """A client that was given work."""

    client: int
    """Its number."""
    number: int
    """The number of this start in the run, from 0: its random draws are named by it."""
    version: int
    """The global state it was given: the number of rounds that were over by then."""
    begin: float
    end: float
    """When its update arrives, or when it is known that none will; in virtual seconds."""
    fate: Fate


@dataclass(frozen=True)
class Plan:
    """One round, before anything is computed."""

    arrivals: tuple[Start, ...]
    """In the order of arrival."""
    others: tuple[Start, ...]
    """Those whose update does not arrive in time."""
    end: float
    """The virtual time at which the round is over."""


@dataclass(frozen=True)
class Load:
    """What a client has to do in a round."""

    steps: int
    down: int
    """Bytes that it is sent."""
    up: int
    """Bytes that it sends."""


LoadOf = Callable[[int], Load]


class VirtualClock:
    """Plans one round after the other. Every draw is named by the seed and what it is for."""

    def __init__(self, settings: ClockSettings, seed: int) -> None:
        self.settings = settings
        self.seed = seed
        self.time = 0.0
        self.num_starts = 0
        self.in_flight: list[Start] = []
        """Who is training (buffered rounds only), in the order of their starts."""

    def plan(
        self, participants: Participants, clients: Sequence[int], version: int, load_of: LoadOf
    ) -> Plan:
        """The round that starts now from global state `version` among `clients`, in order."""
        if participants.mode == "buffered":
            return self._buffered(participants, clients, version, load_of)
        wanted = participants.size
        if participants.mode == "deadline":
            wanted = ceil(participants.size * participants.over_selection)
        share = (
            participants.size / max(len(clients), 1) if participants.sampling == "poisson" else None
        )
        chosen = self._choose(clients, wanted, share, version)
        starts = [self._start(client, version, load_of(client)) for client in chosen]
        due = sorted((each for each in starts if each.fate == "arrives"), key=_arrival)
        others = [each for each in starts if each.fate != "arrives"]
        if participants.mode == "deadline":
            last = self.time + participants.deadline
            in_time = [each for each in due if each.end <= last][: participants.size]
            late = due[len(in_time) :]
            others += [_with_fate(each, "is late") for each in late]
            end = in_time[-1].end if len(in_time) == participants.size else min(last, _latest(due))
            due = in_time
        else:
            end = _latest(due)
        self.time = max(self.time, end)
        return Plan(tuple(due), tuple(others), self.time)

    def withdraw(self) -> list[Start]:
        """Cancel the work of everybody who is training: their global state is out of date."""
        withdrawn, self.in_flight = self.in_flight, []
        return [_with_fate(each, "is late") for each in withdrawn]

    def wait_until(self, time: float) -> None:
        """Let virtual time pass."""
        self.time = max(self.time, time)

    def state_dict(self) -> dict[str, Any]:
        """All that the next plans depend on."""
        flying = [asdict(each) for each in self.in_flight]
        return {"time": self.time, "num_starts": self.num_starts, "in_flight": flying}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.time, self.num_starts = state["time"], state["num_starts"]
        self.in_flight = [Start(**each) for each in state["in_flight"]]

    def _buffered(
        self, participants: Participants, clients: Sequence[int], version: int, load_of: LoadOf
    ) -> Plan:
        """FedBuff: whoever is done makes room for another at once; a round is over when `buffer`
        updates have arrived."""
        arrivals: list[Start] = []
        others: list[Start] = []
        known = np.asarray(clients, dtype=np.int64)
        self._refill(participants.size, known, version, load_of, [])
        while len(arrivals) < participants.buffer and self.in_flight:
            first = min(self.in_flight, key=_arrival)
            self.in_flight.remove(first)
            self.time = max(self.time, first.end)
            (arrivals if first.fate == "arrives" else others).append(first)
            if len(arrivals) < participants.buffer:
                # A round's own arrivals stay away until it is over: none is in a buffer twice.
                here = [each.client for each in arrivals]
                self._refill(participants.size, known, version, load_of, here)
        return Plan(tuple(arrivals), tuple(others), self.time)

    def _refill(
        self,
        size: int,
        clients: NDArray[np.int64],
        version: int,
        load_of: LoadOf,
        away: Sequence[int],
    ) -> None:
        """Give work to as many as are missing, of those that have none and are not `away`."""
        missing = size - len(self.in_flight)
        if missing <= 0:
            return
        busy = [*away, *(each.client for each in self.in_flight)]
        idle = clients[~np.isin(clients, busy)]
        for client in self._choose(idle, missing, None, self.num_starts):
            self.in_flight.append(self._start(client, version, load_of(client)))

    def _choose(
        self,
        clients: Sequence[int] | NDArray[np.int64],
        number: int,
        share: float | None,
        moment: int,
    ) -> list[int]:
        """Who is asked: `number` of those available, or each with probability `share`; in order."""
        random = np.random.default_rng(seed_of(self.seed, "participation", moment))
        there = np.asarray(clients, dtype=np.int64)
        if self.settings.availability < 1:
            there = there[random.random(len(there)) < self.settings.availability]
        if share is not None:
            return [int(each) for each in there[random.random(len(there)) < share]]
        if number < len(there):
            there = np.sort(random.choice(there, number, replace=False))
        return [int(each) for each in there]

    def _start(self, client: int, version: int, load: Load) -> Start:
        settings, number = self.settings, self.num_starts
        self.num_starts += 1
        speed, bandwidth = self._device(client)
        working = load.steps * settings.seconds_per_step / speed
        sending = receiving = 0.0
        if settings.bytes_per_second is not None:
            receiving = load.down / (settings.bytes_per_second * bandwidth)
            sending = load.up / (settings.bytes_per_second * bandwidth)
        fate: Fate = "arrives"
        lasts = receiving + working + sending
        if settings.dropout or settings.lost_uploads:
            random = np.random.default_rng(seed_of(self.seed, "dropout", number, client))
            before, after = random.random(2)
            if before < settings.dropout:
                fate, lasts = "drops", receiving
            elif after < settings.lost_uploads:
                fate = "is lost"
        return Start(client, number, version, self.time, self.time + lasts, fate)

    def _device(self, client: int) -> tuple[float, float]:
        """Speed and bandwidth of a client, as factors of the median's."""
        spreads = self.settings.speed_spread, self.settings.bandwidth_spread
        if not any(spreads):
            return 1.0, 1.0
        random = np.random.default_rng(seed_of(self.seed, "device", client))
        speed, bandwidth = np.exp(random.standard_normal(2) * spreads)
        return float(speed), float(bandwidth)


def _arrival(start: Start) -> tuple[float, int]:
    return start.end, start.number


def _latest(starts: Sequence[Start]) -> float:
    return max((each.end for each in starts), default=0.0)


def _with_fate(start: Start, fate: Fate) -> Start:
    return replace(start, fate=fate)
