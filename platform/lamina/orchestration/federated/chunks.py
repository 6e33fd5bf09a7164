"""Chunks of federated work, and what comes back: what travels between the driver and the workers.
All of it is bytes and plain values."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pickle import PickleBuffer
from typing import Any

from torch import Tensor

from lamina.federation.checking import Slots
from lamina.federation.shared_model import SharedModel
from lamina.federation.timetable import Stop
from lamina.federation.work import Flags, Item
from lamina.training.checkpoint import unpack

Fetch = Callable[[str], bytes]
"""The bytes of something that was broadcast, by its key."""
CHUNKS = 8
"""Into so many chunks a work is cut, whatever the number of hosts."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive items of a work, with what only they need."""

    stop: Stop
    items: tuple[Item, ...]
    owns: tuple[bytes | None, ...]
    """What each item's client keeps."""
    shared_model: str | None
    """The key of the shared model."""
    states: Mapping[int, str]
    """By version, the key of the global state."""
    summary: str | None = None
    """The key of the clients' summed summaries, for a task boundary."""


@dataclass(frozen=True)
class ItemResult:
    """What an item came to, as bytes."""

    update: bytes | None = None
    own: bytes | None = None
    boundary: bytes | None = None
    flags: Flags = field(default_factory=dict)
    declared: Slots = field(default_factory=dict)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # Beside the pickle its bytes are not copied into it: half the time of their journey.
        parts = (self.update, self.own, self.boundary)
        beside = (None if part is None else PickleBuffer(part) for part in parts)
        return _arrived, (*beside, self.flags, self.declared)


def _arrived(update: Any, own: Any, boundary: Any, flags: Flags, declared: Slots) -> ItemResult:
    said, kept, shared_model = (
        None if part is None else bytes(part) for part in (update, own, boundary)
    )
    return ItemResult(said, kept, shared_model, flags, declared)


def chunks_of(items: Sequence[Item], most: int) -> list[slice]:
    """Consecutive runs of items, of lengths that differ by one at most: the same however many hosts
    there are."""
    number = min(len(items), most)
    bounds = [len(items) * place // number for place in range(number + 1)] if number else [0]
    return [slice(start, end) for start, end in pairwise(bounds)]


def boundary_of(content: bytes) -> tuple[SharedModel, dict[str, Tensor]]:
    """The contents of an `ItemResult.boundary`."""
    plain = unpack(content)
    return SharedModel.of(plain["shared_model"]), plain["tensors"]
