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
from lamina.federation.timetable import Entry
from lamina.federation.work import Flags, Item
from lamina.training.checkpoint import unpack

Fetch = Callable[[str], bytes]
"""The bytes of something that was broadcast, by its key."""
CHUNKS = 8
"""Into so many chunks a work is cut, whatever the number of hosts."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive items of a work, with what only they need."""

    entry: Entry
    items: tuple[Item, ...]
    client_states: tuple[bytes | None, ...]
    """The state of each item's client."""
    shared_model: str | None
    """The key of the shared model."""
    states: Mapping[int, str]
    """By version, the key of the global state."""
    summary: str | None = None
    """The key of the clients' summed summaries, for a task boundary."""


@dataclass(frozen=True)
class ItemResult:
    """The result of a work item, as bytes."""

    update: bytes | None = None
    client_state: bytes | None = None
    boundary: bytes | None = None
    flags: Flags = field(default_factory=dict)
    declared: Slots = field(default_factory=dict)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # Beside the pickle its bytes are not copied into it: half the time of their journey.
        contents = (self.update, self.client_state, self.boundary)
        beside = (None if each is None else PickleBuffer(each) for each in contents)
        return _arrived, (*beside, self.flags, self.declared)


def _arrived(
    update: Any, client_state: Any, boundary: Any, flags: Flags, declared: Slots
) -> ItemResult:
    said, kept, crossed = (
        None if each is None else bytes(each) for each in (update, client_state, boundary)
    )
    return ItemResult(said, kept, crossed, flags, declared)


def chunks_of(items: Sequence[Item], most: int) -> list[slice]:
    """Consecutive runs of items, of lengths that differ by one at most: the same however many hosts
    there are."""
    number = min(len(items), most)
    bounds = [len(items) * index // number for index in range(number + 1)] if number else [0]
    return [slice(start, end) for start, end in pairwise(bounds)]


def boundary_of(content: bytes) -> tuple[SharedModel, dict[str, Tensor]]:
    """The contents of an `ItemResult.boundary`."""
    plain = unpack(content)
    return SharedModel.of(plain["shared_model"]), plain["tensors"]
