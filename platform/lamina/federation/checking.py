"""Admission: an update is what was agreed on before the round, name by name, or it is counted and
refused; the round goes on either way.

The agreement is an allow-list: of each tensor and each sum the name, the shape and the type, none
of which grows with a client's rows. So an update cannot hold rows of data. A client holds what
it sends to the list before it leaves (`leaving`), the server once more (`admit`). What was lost or
spoilt on the way, or by a step that diverged, only the server can refuse.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite
from typing import Literal

import torch
from torch import Tensor

from lamina.federation.aggregators.base import Aggregator
from lamina.federation.algebra.control_variates import CONTROL
from lamina.federation.state import GlobalState
from lamina.federation.update import LORA_A, ClientUpdate, Tensors, digest_of, gram_name, modules_of
from lamina.registry import InputError

Reason = Literal[
    "not asked",
    "round",
    "phase",
    "base",
    "rows",
    "metrics",
    "prefix",
    "missing",
    "unknown",
    "type",
    "shape",
    "not finite",
    "duplicate",
    "conflict",
]
METRICS = frozenset({"loss"})
"""The plain numbers that may come along."""
_LARGEST = 2**53
"""No whole number may be larger: Python's have no end, and a long one can spell out a text."""


@dataclass(frozen=True)
class Slot:
    """The required shape and type of one tensor of an update."""

    shape: tuple[int, ...]
    """This shape."""
    dtype: torch.dtype
    """This type."""


Slots = Mapping[str, Slot]


def slots_of(tensors: Tensors) -> dict[str, Slot]:
    """The slots that such tensors fill."""
    return {name: Slot(tuple(each.shape), each.dtype) for name, each in tensors.items()}


@dataclass(frozen=True)
class Expected:
    """What an update of a client may hold, for the work that the client was given."""

    round: int
    """The round it was given."""
    phase: str
    """The round's phase, or the key of its task."""
    tensors: Slots
    """The tensors that it was asked to send: all of them, and nothing else."""
    base: str
    """The digest of the state that it started from."""
    summaries: Slots
    """The sums that it was asked for: all of them, and nothing else."""


@dataclass(frozen=True)
class Refusal:
    """An update that stays outside."""

    client: str
    round: int
    reason: Reason
    message: str
    """The problem, as a message for people."""


@dataclass(frozen=True)
class Admission:
    """Which updates were accepted, and which were refused."""

    accepted: tuple[ClientUpdate, ...]
    """In the order of the clients' names."""
    refusals: tuple[Refusal, ...] = ()

    def tally(self) -> dict[str, int]:
        """How many were refused, by reason."""
        return dict(Counter(refusal.reason for refusal in self.refusals))


def expected_of(
    aggregator: Aggregator,
    state: GlobalState,
    base: str,
    round: int,
    rank: int | None,
    task_key: str | None,
    *,
    controls: bool,
) -> Expected:
    """What a client of a rank may send after a round that it starts from a state, whose digest is
    `base`, at a task of which `task_key` is the key; with `controls`, also what changed of its
    control variates."""
    starting = aggregator.starting_tensors(state, None, rank, task_key)
    sums: dict[str, Slot] = {}
    if aggregator.needs_grams:
        for module in modules_of(starting):
            read = starting[module + LORA_A]
            sums[gram_name(module)] = Slot((read.shape[1], read.shape[1]), read.dtype)
    slots = slots_of(starting)
    if controls:
        trained = (name for name in slots if aggregator.trains(round, name))
        sums |= {CONTROL + name: slots[name] for name in trained}
    sent = {name: slot for name, slot in slots.items() if aggregator.sends(round, name)}
    return Expected(round, task_key or aggregator.phase(round), sent, base, sums)


def admit(updates: Iterable[ClientUpdate], expected: Mapping[str, Expected]) -> Admission:
    """Check a round's updates against what each client was asked for, whatever their order.

    Of an update that came twice one copy is taken. Two that differ from one client in one round
    are both refused: a client's work is a pure function, so which is true cannot be told.
    """
    refusals: list[Refusal] = []
    sound: dict[tuple[str, int], list[ClientUpdate]] = defaultdict(list)
    for update in updates:
        problem = problem_of(update, expected.get(update.client))
        if problem is None:
            sound[update.client, update.round].append(update)
        else:
            refusals.append(Refusal(update.client, update.round, *problem))
    accepted = []
    for (client, round), copies in sorted(sound.items(), key=lambda item: item[0]):
        digests = {update_digest(copy) for copy in copies} if len(copies) > 1 else {""}
        if len(digests) == 1:
            accepted.append(copies[0])
            again = "the same update came before"
            refusals += [Refusal(client, round, "duplicate", again)] * (len(copies) - 1)
        else:
            differ = f"{len(digests)} different updates came of one round"
            refusals += [Refusal(client, round, "conflict", differ)] * len(copies)
    refusals.sort(key=lambda refusal: (refusal.client, refusal.round, refusal.reason))
    return Admission(tuple(accepted), tuple(refusals))


def problem_of(update: ClientUpdate, expected: Expected | None) -> tuple[Reason, str] | None:
    """The first problem of an update; None if there is none."""
    if expected is None:
        return "not asked", f"{update.client!r} was not asked"
    return _first(_CHECKS, update, expected)


def leaving(update: ClientUpdate, expected: Expected) -> ClientUpdate:
    """The update, which may leave its client.

    Raises InputError for one that holds anything but what the client was asked for.
    """
    problem = _first(_OF_FORM, update, expected)
    if problem is not None:
        reason, message = problem
        raise InputError(
            f"update: what {update.client!r} found may not leave it ({reason}): {message}"
        )
    return update


def update_digest(update: ClientUpdate) -> str:
    """A sha256 of all that an update says, but for its metrics."""
    about = f"{update.client}/{update.round}/{update.num_rows}/{update.phase}/{update.base}"
    lines = (about, digest_of(update.tensors), digest_of(update.summaries))
    return sha256("\n".join(lines).encode()).hexdigest()


Problem = tuple[Reason, str] | None


def _first(
    checks: Iterable[Callable[[ClientUpdate, Expected], Problem]],
    update: ClientUpdate,
    expected: Expected,
) -> Problem:
    return next(
        (problem for check in checks if (problem := check(update, expected)) is not None), None
    )


def _about(update: ClientUpdate, expected: Expected) -> Problem:
    """Round, phase, base, weight, and the numbers that come along."""
    if update.round != expected.round:
        return "round", f"it is of round {update.round!r}, not {expected.round}"
    if update.phase != expected.phase:
        return "phase", f"it trained {update.phase!r}, not {expected.phase!r}"
    if update.base != expected.base:
        return "base", f"it started from {update.base!r:.20}, not from {expected.base[:12]}"
    if type(update.num_rows) is not int or not 0 <= update.num_rows <= _LARGEST:
        return "rows", f"it says that it has {update.num_rows!r:.20} rows"
    for name, value in update.metrics.items():
        if name not in METRICS:
            return "metrics", f"{name!r:.20} is no metric (allowed: {', '.join(sorted(METRICS))})"
        if type(value) is not float and (type(value) is not int or abs(value) > _LARGEST):
            return "metrics", f"{name} is {value!r:.20}, no number, or a whole one above 2^53"
    return None


def _tensors(update: ClientUpdate, expected: Expected) -> Problem:
    """Check the trained tensors."""
    wrapped = [name for name in update.tensors if "_module." in name]
    if wrapped:
        return "prefix", f"{wrapped[0]}: a wrapper's '_module.' is in the name"
    return _fit("tensors", update.tensors, expected.tensors)


def _summaries(update: ClientUpdate, expected: Expected) -> Problem:
    """Check the summaries."""
    return _fit("summaries", update.summaries, expected.summaries)


def _fit(kind: str, given: Tensors, slots: Slots) -> Problem:
    """Neither more names nor fewer; types and shapes as agreed."""
    if missing := sorted(slots.keys() - given.keys()):
        return "missing", f"{len(missing)} {kind} are missing: {', '.join(missing[:3])}"
    if strange := sorted(given.keys() - slots.keys()):
        return "unknown", f"{len(strange)} {kind} are unknown: {', '.join(strange[:3])}"
    for name, slot in slots.items():
        value = given[name]
        if not isinstance(value, Tensor) or value.layout is not torch.strided:
            return "type", f"{name} is no (dense) tensor"
        if value.dtype != slot.dtype:
            return "type", f"{name} is {value.dtype}, not {slot.dtype}"
        if tuple(value.shape) != slot.shape:
            return "shape", f"{name} is {tuple(value.shape)}, not {slot.shape}"
    return None


def _finite(update: ClientUpdate, _: Expected) -> Problem:
    """No NaN, no infinity."""
    for name, tensor in (*update.tensors.items(), *update.summaries.items()):
        # What is not finite makes a sum that is not, in a fifth of the time; but a sum of finite
        # numbers may be too large.
        if not isfinite(tensor.sum().item()) and not tensor.isfinite().all():
            return "not finite", f"{name} holds numbers that are not finite"
    for name, value in update.metrics.items():
        if not isfinite(value):
            return "not finite", f"{name} is {value}"
    return None


_OF_FORM = (_about, _tensors, _summaries)
_CHECKS = (*_OF_FORM, _finite)
