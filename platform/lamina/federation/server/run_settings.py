"""What the course of a federated run depends on besides what clients answer."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from lamina.core import Part
from lamina.federation.aggregators.base import Aggregator
from lamina.federation.optimisers.base import ServerOptimiser
from lamina.federation.privacy.settings import PrivacySettings
from lamina.federation.server.clock import ClockSettings, Participants
from lamina.federation.server.private_sum import PrivateSum
from lamina.federation.state import Scaling
from lamina.federation.timetable import Entry
from lamina.federation.work import LocalWork
from lamina.streams.manifest import StreamManifest


@dataclass(frozen=True)
class RunSettings:
    """The settings of a run, and the data that its clients have."""

    manifest: StreamManifest
    timetable: tuple[Entry, ...]
    aggregator: Aggregator
    optimiser: ServerOptimiser | None
    """None: the server takes the average as it is."""
    participants: Participants
    clock: ClockSettings
    local: LocalWork
    batch_size: int
    seed: int
    scaling: Scaling
    ranks: tuple[int, ...]
    """LoRA ranks, dealt to the clients in turn; none: all have the adapter's."""
    personal: bool
    """Whether each client serves a model of its own, and is asked for its answers by itself."""
    ids: Mapping[tuple[Part, int], Tensor]
    """By part of the data (validation, test) and task, the ids of its rows, ascending."""
    controls: bool = False
    """Whether updates bring changes of control variates (SCAFFOLD)."""
    private: PrivateSum | None = None
    """How updates are combined unseen; None: the aggregator sees each."""
    measure: str = "accuracy"
    """What the share of rows is called that are answered rightly."""
    row_privacy: PrivacySettings | None = None
    """What hides the rows of clients in what they send; None: nothing does."""

    @property
    def num_rounds(self) -> int:
        """Rounds of the whole run."""
        return sum(each.kind == "train" for each in self.timetable)

    def num_steps(self, num_rows: int) -> int:
        """Gradient steps that a client takes in a round on so many rows."""
        return self.local.num_steps(num_rows, self.batch_size)

    def rank_of(self, client: int) -> int | None:
        """The LoRA rank of a client; None where all have the adapter's."""
        return self.ranks[client % len(self.ranks)] if self.ranks else None

    def names_of(self, clients: Iterable[int]) -> list[str]:
        """The names of clients, by their numbers."""
        return [self.manifest.clients[client].name for client in clients]

    def numbers_of(self, names: Iterable[str]) -> list[int]:
        """The numbers of clients, by their names."""
        return [self._numbers[name] for name in names]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {each.name: number for number, each in enumerate(self.manifest.clients)}
