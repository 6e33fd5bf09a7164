"""What passes between the state machine of a run and whoever does its work."""

from dataclasses import dataclass, field

from torch import Tensor

from lamina.federation.checking import Slots
from lamina.federation.shared_model import SharedModel
from lamina.federation.state import GlobalState
from lamina.federation.timetable import Entry
from lamina.federation.update import ClientUpdate

Flags = dict[str, Tensor]
"""By part of the data (validation, test), bool [n]: which rows of a task are answered rightly, in
the order of their ids."""


@dataclass(frozen=True)
class LocalWork:
    """How much a client trains in a round."""

    epochs: int = 1
    """Passes over its current rows."""
    steps: int | None = None
    """Steps instead of passes."""

    def num_steps(self, num_rows: int, batch_size: int) -> int:
        """Of one round."""
        return self.steps or self.epochs * -(-num_rows // batch_size)


@dataclass(frozen=True)
class Item:
    """One piece of work: a pure function of what the run's state holds under these names."""

    client: int | None
    """None: the server's own, or that of all clients together."""
    task: int
    version: int
    """The global state that it starts from: the number of rounds that were over."""
    time: float
    """In stream steps, when the client was given it."""


@dataclass(frozen=True)
class Work:
    """What is to be done now. Its items may be done in any order, anywhere."""

    number: int
    """The number of this work in the run, from 0: names its checkpoint."""
    entry: Entry
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Download:
    """What whoever does an item is sent besides the item itself."""

    state: GlobalState
    """The global state of the item's version."""
    base: str
    """Its digest, which an update names as what it started from."""
    shared_model: SharedModel | None
    """None before the first task boundary."""


@dataclass(frozen=True)
class Reply:
    """What an item came to."""

    update: ClientUpdate | None = None
    """Of a client's round, or of its summary of its rows."""
    up: int = 0
    """Bytes in which it was sent."""
    client_state: str | None = None
    """The digest of the client's state from now on; None where it keeps nothing."""
    boundary: tuple[SharedModel, dict[str, Tensor]] | None = None
    """Of a task boundary: the new shared model, and the tensors that are trained from now on."""
    flags: Flags = field(default_factory=dict)
    """Of an evaluation; of a task's last round, of what the client trained by itself."""
    declared: Slots = field(default_factory=dict)
    """Of the server's summary of a blank row: which sums clients may send."""
    damage: str | None = None
    """Why what came could not even be read."""


@dataclass(frozen=True)
class DownloadSizes:
    """The bytes of a `Download`."""

    state: int
    """Sent each time."""
    shared_model: int
    """Sent once after each task boundary."""
