"""The door: an update comes in as the schema that was agreed on, or is counted and refused; the
round goes on either way."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from torch import Tensor

from lamina.federation.update import ClientUpdate, Tensors, digest_of

Reason = Literal[
    "not asked",
    "round",
    "phase",
    "base",
    "rows",
    "prefix",
    "missing",
    "unknown",
    "type",
    "shape",
    "not finite",
    "duplicate",
    "conflict",
]


@dataclass(frozen=True)
class Expected:
    """What a client that was given work may send back."""

    round: int
    """The round it was given."""
    phase: str
    """The round's phase, or the key of its task."""
    tensors: Tensors
    """What it was asked to send, as it was given them: names, shapes and types are checked."""
    base: str | None = None
    """The digest of the state that it started from. None where older states are taken too."""
    growing: Collection[str] = ("head",)
    """Adapters and heads whose tensors may come back with more rows: the task brought classes."""
    summaries: Collection[str] = ()
    """The names of the sums it may send: all of them or none."""


@dataclass(frozen=True)
class Refusal:
    """An update that stays outside."""

    client: str
    round: int
    reason: Reason
    message: str
    """What was wrong, for a person."""


@dataclass(frozen=True)
class Admission:
    """What came through the door, and what did not."""

    accepted: tuple[ClientUpdate, ...]
    """In the order of the clients' names."""
    refusals: tuple[Refusal, ...] = ()

    def tally(self) -> dict[str, int]:
        """How many were refused, by reason."""
        return dict(Counter(refusal.reason for refusal in self.refusals))


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
    """What is wrong with an update, the first thing; None if nothing is."""
    if expected is None:
        return "not asked", f"{update.client!r} was not asked"
    for check in _CHECKS:
        problem = check(update, expected)
        if problem is not None:
            return problem
    return None


def update_digest(update: ClientUpdate) -> str:
    """A sha256 of all that an update says, but for its metrics."""
    about = f"{update.client}/{update.round}/{update.num_rows}/{update.phase}/{update.base}"
    parts = (about, digest_of(update.tensors), digest_of(update.summaries))
    return sha256("\n".join(parts).encode()).hexdigest()


Problem = tuple[Reason, str] | None


def _about(update: ClientUpdate, expected: Expected) -> Problem:
    """Round, phase, base, weight."""
    if update.round != expected.round:
        return "round", f"it is of round {update.round}, not {expected.round}"
    if update.phase != expected.phase:
        return "phase", f"it trained {update.phase!r}, not {expected.phase!r}"
    if expected.base is not None and update.base != expected.base:
        return "base", f"it started from {update.base[:12]}, not from {expected.base[:12]}"
    if update.num_rows < 0:
        return "rows", f"it says that it has {update.num_rows} rows"
    return None


def _names(update: ClientUpdate, expected: Expected) -> Problem:
    """Neither more names nor fewer."""
    wrapped = [name for name in update.tensors if "_module." in name]
    if wrapped:
        return "prefix", f"{wrapped[0]}: a wrapper's '_module.' is in the name"
    if missing := sorted(expected.tensors.keys() - update.tensors.keys()):
        return "missing", f"{len(missing)} tensors are missing: {', '.join(missing[:3])}"
    if strange := sorted(update.tensors.keys() - expected.tensors.keys()):
        return "unknown", f"{len(strange)} tensors are unknown: {', '.join(strange[:3])}"
    if not update.summaries.keys() <= set(expected.summaries):
        strange = sorted(update.summaries.keys() - set(expected.summaries))
        return "unknown", f"{len(strange)} summaries are unknown: {', '.join(strange[:3])}"
    if update.summaries and len(update.summaries) < len(expected.summaries):
        missing = sorted(set(expected.summaries) - update.summaries.keys())
        return "missing", f"{len(missing)} summaries are missing: {', '.join(missing[:3])}"
    return None


def _tensors(update: ClientUpdate, expected: Expected) -> Problem:
    """Types and shapes as given."""
    for name, tensor in update.tensors.items():
        given = expected.tensors[name]
        if tensor.dtype != given.dtype:
            return "type", f"{name} is {tensor.dtype}, not {given.dtype}"
        grows = name.partition(".")[0] in expected.growing and given.dim() > 0
        if tensor.shape != given.shape and not (grows and _is_longer(tensor, given)):
            return "shape", f"{name} is {tuple(tensor.shape)}, not {tuple(given.shape)}"
    return None


def _is_longer(tensor: Tensor, given: Tensor) -> bool:
    return tensor.shape[1:] == given.shape[1:] and len(tensor) > len(given)


def _finite(update: ClientUpdate, _: Expected) -> Problem:
    """No NaN, no infinity."""
    for name, tensor in (*update.tensors.items(), *update.summaries.items()):
        # What is not finite makes a sum that is not, in a fifth of the time; but a sum of finite
        # numbers may be too large.
        if not tensor.sum().isfinite() and not tensor.isfinite().all():
            return "not finite", f"{name} holds numbers that are not finite"
    return None


_CHECKS: tuple[Callable[[ClientUpdate, Expected], Problem], ...] = (
    _about,
    _names,
    _tensors,
    _finite,
)
