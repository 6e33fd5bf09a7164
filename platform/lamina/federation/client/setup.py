"""The setup of client work: the job's settings, the data, and a model in the state that was
downloaded."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from lamina.adapters.base import AdapterKind
from lamina.adapters.model import AdaptedModel
from lamina.backbones.backbone import Backbone
from lamina.core import Batch, Stream, Summary, Task
from lamina.federation.aggregators.base import Aggregator
from lamina.federation.client.client_state import ClientState
from lamina.federation.client.correction import DriftSettings
from lamina.federation.privacy.released import declared_sums
from lamina.federation.privacy.settings import PrivacySettings
from lamina.federation.shared_model import SharedModel, lay_out
from lamina.federation.state import GlobalState
from lamina.federation.work import LocalWork
from lamina.memory.base import Policy
from lamina.strategies.base import Strategy
from lamina.streams.manifest import Delivery, StreamManifest
from lamina.training.rows_by_id import RowsById
from lamina.training.settings import TrainingSettings

Look = Callable[[AdaptedModel, Batch], Summary | None]
"""`Strategy.preview` or `Strategy.review`."""


@dataclass
class ClientSetup:
    """Everything that is the same for all clients and for the whole run."""

    strategy: Strategy
    """The job's strategy. Work is done by copies of it."""
    adapter: AdapterKind | None
    memory: Policy | None
    training: TrainingSettings
    local: LocalWork
    aggregator: Aggregator
    seed: int
    stream: Stream[Batch]
    manifest: StreamManifest
    in_step: bool
    """Whether tasks begin and end for all clients at once, at the server."""
    backbone: Backbone
    drift: DriftSettings
    privacy: PrivacySettings | None = None
    """Differential privacy of clients or of their rows; None: no privacy."""
    ranks: tuple[int, ...] = ()
    """LoRA ranks, dealt to the clients in turn; none: the adapter's."""

    def __post_init__(self) -> None:
        self.rows = RowsById(self.stream)
        """The rows of the stream, by their ids."""
        # The rows of a delivery are looked up once, not once a round.
        self._rows_of = lru_cache(maxsize=4096)(self._find_rows)

    def delivery(self, client: int, time: float) -> Delivery:
        """The delivery that a client is at."""
        found = self.manifest.latest(client, time)
        assert found is not None, "a client without rows is not asked"
        return found

    def rows_of(self, client: int, time: float) -> Batch:
        """The rows of the delivery that a client is at."""
        return self._rows_of(client, time)

    def task_of(self, delivery: Delivery, client_state: ClientState) -> Task:
        """A delivery's task as the client's strategy knows it: where tasks are the client's own,
        numbered by its own stream."""
        task = self.stream.experiences[delivery.task].task
        return task if self.in_step else replace(task, index=client_state.task)

    def rank(self, client: int | None) -> int | None:
        """The LoRA rank of a client. None for the server, and where all have the adapter's."""
        return self.ranks[client % len(self.ranks)] if self.ranks and client is not None else None

    def starting_tensors(
        self, state: GlobalState, client: int | None, client_state: ClientState, task: int
    ) -> dict[str, Tensor]:
        """The tensors that a client, or the server, starts a task from."""
        key = self.aggregator.key_of(task)
        rank = self.rank(client)
        return self.aggregator.starting_tensors(state, client_state.tensors, rank, key)

    def new_model(self) -> tuple[AdaptedModel, Strategy]:
        """A model without adapters, and a strategy that has seen nothing."""
        return AdaptedModel(self.backbone, self.adapter, self.seed), replace(self.strategy)

    def loaded_model(
        self,
        shared_model: SharedModel,
        tensors: Mapping[str, Tensor],
        ledger: Mapping[str, Tensor],
    ) -> tuple[AdaptedModel, Strategy]:
        """The model and strategy of a shared model, with the given tensors in place of its own."""
        model, strategy = self.new_model()
        lay_out(shared_model, tensors, ledger, model, strategy)
        return model, strategy

    @torch.no_grad()
    def summed(self, look: Look, model: AdaptedModel, data: Batch) -> Summary | None:
        """What `look` finds, summed over all rows; None where it finds nothing.

        Raises InputError for a summary that holds rows.
        """
        total = None
        for batch in data.by_length().chunks(self.training.evaluation_batch_size):
            summary = look(model, batch.to(self.backbone.device))
            if summary is None:
                return None
            declared_sums(summary)
            total = summary if total is None else total + summary
        return total

    def _find_rows(self, client: int, time: float) -> Batch:
        return self.rows(self.delivery(client, time).rows)


def to_send(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as they travel: without a graph, on the CPU, contiguous."""
    return {name: each.detach().cpu().contiguous() for name, each in tensors.items()}
