"""A client's round: it trains on its rows from the global state, and makes an update of it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lamina.adapters.model import AdaptedModel
from lamina.core import Batch, seed_of
from lamina.federation.algebra.control_variates import control_change, own_control
from lamina.federation.checking import expected_of, leaving
from lamina.federation.client.client_state import ClientState
from lamina.federation.client.correction import Corrected
from lamina.federation.client.local_steps import descend
from lamina.federation.client.own_pace import at_its_task
from lamina.federation.client.setup import ClientSetup, to_send
from lamina.federation.shared_model import every_tensor
from lamina.federation.state import GlobalState
from lamina.federation.update import ClientUpdate, gram_name, modules_of
from lamina.federation.work import Download, Item
from lamina.memory.memory import Memory
from lamina.strategies.base import Strategy
from lamina.streams.manifest import Delivery
from lamina.training.notes import notes_of


@dataclass(frozen=True)
class LocalTraining:
    """Rounds of clients. Each is a pure function of what it is given."""

    setup: ClientSetup

    def train(
        self, download: Download, item: Item, client_state: ClientState
    ) -> tuple[ClientUpdate, ClientState]:
        """A round of the item's client: the delivery that it is at, learned from the global state.

        Returns what it sends and the client's new state; the given one is not changed. Raises
        InputError where the update would hold what may not leave the client.
        """
        setup, state, client = self.setup, download.state, item.client
        assert client is not None
        assert download.shared_model is not None, "nobody trains before the first boundary"
        delivery, after = setup.delivery(client, item.time), replace(client_state)
        tensors = setup.starting_tensors(state, client, after, delivery.task)
        shared_model = download.shared_model
        if not setup.in_step:
            shared_model = at_its_task(setup, shared_model, state, tensors, delivery, after)
        model, strategy = setup.loaded_model(shared_model, tensors, state.ledger)
        memory = self._memory(client, after)
        if memory is not None:
            self._offer_past(model, strategy, memory, delivery, after)
        task = setup.task_of(delivery, after)
        data = replace(setup.rows_of(client, delivery.time), task=task)
        strategy.begin_phase(model, task, 0)
        loss, sums = self._learn(model, strategy, memory, data, item, state, after)
        if memory is not None and len(memory) > 0:
            after.memory = memory.state_dict()
        every = every_tensor(model)
        trained = to_send({name: every[name] for name in tensors})
        left = {name: each for name, each in trained.items() if setup.aggregator.keeps(name)}
        if left:
            after.tensors = {**after.tensors, **left}
        terms = data.num_terms()
        return self._update(download, item, delivery, trained, sums, terms, loss), after

    def _learn(
        self,
        model: AdaptedModel,
        strategy: Strategy,
        memory: Memory | None,
        data: Batch,
        item: Item,
        state: GlobalState,
        client_state: ClientState,
    ) -> tuple[float, dict[str, Tensor]]:
        """Take the steps. Returns their mean loss, and the sums that the aggregation asks for."""
        setup, round, client = self.setup, item.version, item.client
        assert client is not None
        for name, tensor in model.parameters().items():
            tensor.requires_grad_(setup.aggregator.trains(round, name))
        start = {name: each.detach().clone() for name, each in model.parameters().items()}
        shared, before = state.controls, client_state.control
        held = strategy
        if setup.drift.name == "fedprox":
            held = Corrected(strategy, start, mu=setup.drift.mu)
        elif setup.drift.name == "scaffold":
            held = Corrected(strategy, start, own=before, shared=shared)
        loss = descend(setup, held, model, memory, data, round, client)
        sums: dict[str, Tensor] = {}
        if setup.drift.name == "scaffold":
            end = to_send(model.parameters())
            num_steps = setup.local.num_steps(len(data), setup.training.batch_size)
            rate = setup.training.learning_rate
            client_state.control = own_control(before, shared, start, end, num_steps, rate)
            sums |= control_change(before, client_state.control)
        if setup.aggregator.needs_grams:
            sums |= self._grams(model, data)
        return loss, sums

    def _update(
        self,
        download: Download,
        item: Item,
        delivery: Delivery,
        trained: Mapping[str, Tensor],
        sums: Mapping[str, Tensor],
        num_rows: int,
        loss: float,
    ) -> ClientUpdate:
        """The update of a client: those of its trained tensors that the aggregator asks for."""
        aggregator, round = self.setup.aggregator, item.version
        key = aggregator.key_of(delivery.task)
        update = ClientUpdate(
            client=self.setup.manifest.clients[delivery.client].name,
            round=round,
            tensors={n: each for n, each in trained.items() if aggregator.sends(round, n)},
            num_rows=num_rows,
            phase=key or aggregator.phase(round),
            base=download.base,
            summaries=sums,
            # A mean over rows, which no noise hides and no sum.
            metrics={"loss": loss} if self.setup.privacy is None else {},
        )
        about = (download.base, round, self.setup.rank(delivery.client), key)
        controls = self.setup.drift.name == "scaffold"
        expected = expected_of(aggregator, download.state, *about, controls=controls)
        return leaving(update, expected)

    def _memory(self, client: int, client_state: ClientState) -> Memory | None:
        if self.setup.memory is None:
            return None
        memory = Memory(self.setup.memory, seed_of(self.setup.seed, "client", client))
        if client_state.memory is not None:
            memory.load_state_dict(client_state.memory)
        return memory

    @torch.no_grad()
    def _offer_past(
        self,
        model: AdaptedModel,
        strategy: Strategy,
        memory: Memory,
        delivery: Delivery,
        client_state: ClientState,
    ) -> None:
        """Let the memory keep what it wants of the deliveries before this one; they are over."""
        setup = self.setup
        past = [
            each for each in setup.manifest.deliveries(delivery.client) if each.time < delivery.time
        ]
        notes = notes_of(strategy, model, setup.training.evaluation_batch_size)
        for each in past[client_state.offered :]:
            memory.offer(setup.rows_of(each.client, each.time), notes)
        if past:
            client_state.offered = len(past)

    @torch.no_grad()
    def _grams(self, model: AdaptedModel, data: Batch) -> dict[str, Tensor]:
        """sum x x^T [d_in, d_in] over the inputs x of each module that a LoRA adapts."""
        paths = {each: each.partition(".")[2] for each in modules_of(every_tensor(model))}
        sums: dict[str, Tensor] = {}
        for batch in data.by_length().chunks(self.setup.training.evaluation_batch_size):
            moved = batch.to(self.setup.backbone.device)
            read = model.inputs_at(moved.inputs, sorted(set(paths.values())))
            for module, path in paths.items():
                gram = (read[path].T @ read[path]).cpu()
                name = gram_name(module)
                sums[name] = sums[name] + gram if name in sums else gram
        return sums
