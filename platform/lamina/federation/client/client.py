"""The work of clients and of the server that needs a backbone, as pure functions of what they are
given: nothing here remembers anything from call to call but what was looked up."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import nan

import torch
from torch import Tensor

from lamina.adapters.base import AdapterKind
from lamina.adapters.model import AdaptedModel
from lamina.backbones.backbone import Backbone
from lamina.core import KEYS, Batch, Part, Stream, Summary, Task, generator_of, seed_of
from lamina.federation.aggregators.base import Aggregator
from lamina.federation.algebra.control_variates import control_change, controls_of, own_control
from lamina.federation.checking import Expected, Slot, expected_of, leaving, slots_of
from lamina.federation.client.client_state import ClientState
from lamina.federation.client.correction import Corrected, DriftSettings
from lamina.federation.fitness import answers_midway, trains
from lamina.federation.privacy.example_level import ExamplePrivacy, PrivateSteps, sample_rows
from lamina.federation.privacy.released import ReleaseRule, declared_sums, released_sums
from lamina.federation.privacy.settings import PrivacySettings
from lamina.federation.shared_model import SharedModel, every_tensor, lay_out, shared_model_of
from lamina.federation.state import GlobalState
from lamina.federation.timetable import arrived
from lamina.federation.update import ClientUpdate, gram_name, modules_of
from lamina.federation.work import Flags, LocalWork
from lamina.memory.base import Policy
from lamina.memory.memory import Memory, Replay
from lamina.registry import InputError
from lamina.strategies.base import Strategy
from lamina.streams.manifest import Event, StreamManifest
from lamina.training.evaluate import answered_rightly, told
from lamina.training.rows_by_id import RowsById
from lamina.training.settings import TrainingSettings
from lamina.training.stepper import Stepper
from lamina.training.workers import Alone

_STEPS_OF_A_ROUND = 1_000_000
"""More than a client takes: so the draws of two rounds from a memory have different names."""


@dataclass
class ClientWork:
    """Everything that the work depends on and that is the same for the whole run."""

    strategy: Strategy
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
    """What hides clients, or their rows; None: nothing."""
    ranks: tuple[int, ...] = ()
    """LoRA ranks, dealt to the clients in turn; none: the adapter's."""

    def __post_init__(self) -> None:
        self._rows = RowsById(self.stream)
        # The rows of an event are looked up once, not once a round.
        self._batch_of: Callable[[int, float], Batch] = lru_cache(maxsize=4096)(self._found)

    def task_boundary(
        self,
        shared_model: SharedModel | None,
        state: GlobalState,
        task: int,
        end: bool,
        summary: Summary | None,
    ) -> tuple[SharedModel, dict[str, Tensor]]:
        """The server's side of a task boundary: `begin_task` or `end_task` with the clients' summed
        summaries. Returns the shared model and the tensors that are trained from now on.

        Without a shared model, the strategy is set up first.
        """
        model, strategy = self._at_a_boundary(shared_model, state, task, end)
        if self.in_step or not self._trains(task):
            now = self.stream.experiences[task].task
            (strategy.end_task if end else strategy.begin_task)(model, now, summary)
        tensors = _detached(model.parameters())
        return shared_model_of(model, strategy, tensors), tensors

    def summarise(
        self,
        shared_model: SharedModel | None,
        state: GlobalState,
        base: str,
        client: int,
        time: int,
        task: int,
        after: bool,
    ) -> ClientUpdate:
        """`preview` or `review` of the rows of a task that came to a client in the stream step from
        `time` on: sums, and nothing else. Without a shared model, the strategy is set up first."""
        model, strategy = self._at_a_boundary(shared_model, state, task, after)
        ids = [each.rows for each in arrived(self.manifest, client, time) if each.task == task]
        data = replace(self._rows(torch.cat(ids)), task=self.stream.experiences[task].task)
        look, phase = strategy.preview, "preview"
        if after:
            look, phase = strategy.review, "review"
        rule = None if self.privacy is None else self.privacy.summaries
        num_rows = len(data)
        if rule is None:
            found = self._summed(look, model, data)
            sums = {} if found is None else found.sums
        else:
            sums = self._released(look, model, data, rule, time, task, client, phase)
            num_rows = rule.num_rows(data.labels)
        update = ClientUpdate(
            client=self.manifest.clients[client].name,
            round=time,
            tensors={},
            num_rows=num_rows,
            phase=phase,
            base=base,
            summaries=_detached(sums),
        )
        declared = self.declared(shared_model, state, task, after)
        return leaving(update, Expected(time, phase, {}, base, declared))

    def declared(
        self, shared_model: SharedModel | None, state: GlobalState, task: int, after: bool
    ) -> dict[str, Slot]:
        """The sums that `look` may find: those of a row without content, so that no shape depends
        on how many rows there are or on what is in them.

        Raises InputError for a strategy whose summary keeps rows.
        """
        model, strategy = self._at_a_boundary(shared_model, state, task, after)
        now = self.stream.experiences[task]
        row = blank(replace(now.train[:1], task=now.task), now.task)
        found = self._summed(strategy.review if after else strategy.preview, model, row)
        return slots_of({} if found is None else found.sums)

    def train(
        self,
        shared_model: SharedModel,
        state: GlobalState,
        base: str,
        client: int,
        round: int,
        time: float,
        own: ClientState,
    ) -> tuple[ClientUpdate, ClientState]:
        """A round of a client: the event that it is at, learned from the global state, whose digest
        is `base`.

        Returns what it sends and what it keeps. A pure function of its arguments.
        """
        event = self.manifest.latest(client, time)
        assert event is not None, "a client without rows is not asked"
        own = replace(own)
        tensors = self._starting_tensors(state, client, own, event.task)
        if not self.in_step:
            shared_model = self._at_its_task(shared_model, state, tensors, event, own)
        model, strategy = self._resumed(shared_model, tensors, state.ledger)
        memory = self._memory(client, own)
        if memory is not None:
            self._offer_past(model, strategy, memory, client, event, own)
        task, data = self.task_of(event, own), self._batch_of(client, event.time)
        data = replace(data, task=task)
        strategy.begin_phase(model, task, 0)
        for name, tensor in model.parameters().items():
            tensor.requires_grad_(self.aggregator.trains(round, name))
        start = {name: each.detach().clone() for name, each in model.parameters().items()}
        shared = controls_of(state)
        held = self._held(strategy, start, shared, own)
        loss = self._descend(model, held, memory, data, client, round)
        sums: dict[str, Tensor] = {}
        if self.drift.name == "scaffold":
            before, end = own.control, _detached(model.parameters())
            steps = self.local.num_steps(len(data), self.training.batch_size)
            rate = self.training.learning_rate
            own.control = own_control(before, shared, start, end, steps, rate)
            sums |= control_change(before, own.control)
        if self.aggregator.needs_grams:
            sums |= self._grams(model, data)
        every = every_tensor(model)
        trained = {name: _sent(every[name]) for name in tensors}
        if memory is not None and len(memory) > 0:
            own.memory = memory.state_dict()
        kept = {name: each for name, each in trained.items() if self.aggregator.keeps(name)}
        if kept:
            own.tensors = {**own.tensors, **kept}
        sent = {name: each for name, each in trained.items() if self.aggregator.sends(round, name)}
        update = ClientUpdate(
            client=self.manifest.clients[client].name,
            round=round,
            tensors=sent,
            num_rows=len(data),
            phase=self.aggregator.key_of(event.task) or self.aggregator.phase(round),
            base=base,
            summaries=sums,
            # A mean over rows, which no noise hides and no sum.
            metrics={"loss": loss} if self.privacy is None else {},
        )
        controls = self.drift.name == "scaffold"
        about = (base, round, self._rank(client), self.aggregator.key_of(event.task))
        expected = expected_of(self.aggregator, state, *about, controls=controls)
        return leaving(update, expected), own

    def answer(
        self,
        shared_model: SharedModel,
        state: GlobalState,
        task: int,
        client: int | None,
        own: ClientState,
    ) -> Flags:
        """Which rows of a task are answered rightly by what `client` would serve, or by the global
        state; of a client, its own rows only, in the order of `manifest.rows`."""
        tensors = self._starting_tensors(state, client, own, task)
        return self._answered(shared_model, tensors, state.ledger, task, client, own)

    def answer_alone(
        self,
        shared_model: SharedModel,
        state: GlobalState,
        update: ClientUpdate,
        client: int,
        time: float,
        own: ClientState,
    ) -> Flags:
        """As `answer`, of what the client has trained just now, before others are averaged in: on
        its own rows of the task that it is at. Nothing where the strategy cannot say it yet."""
        event = self.manifest.latest(client, time)
        assert event is not None, "a client without rows is not asked"
        if not answers_midway(type(self.strategy)):
            return {}
        tensors = {**self._starting_tensors(state, client, own, event.task), **update.tensors}
        return self._answered(shared_model, tensors, state.ledger, event.task, client, own)

    def _answered(
        self,
        shared_model: SharedModel,
        tensors: Mapping[str, Tensor],
        ledger: Mapping[str, Tensor],
        task: int,
        client: int | None,
        own: ClientState,
    ) -> Flags:
        shared_model = own.shared_model or shared_model
        model, strategy = self._resumed(shared_model, tensors, ledger)
        experience = self.stream.experiences[task]
        flags: Flags = {}
        parts: tuple[Part, ...] = ("validation", "test")
        for part in parts:
            data = experience.part(part)
            order = data.ids.argsort()
            if client is not None:
                own_ids = self.manifest.rows(client, part, task)
                order = order[torch.searchsorted(data.ids[order], own_ids)]
            known = told(self.stream, experience.task)
            size = self.training.evaluation_batch_size
            flags[part] = answered_rightly(strategy, model, data[order], known, size)
        return flags

    def task_of(self, event: Event, own: ClientState) -> Task:
        """The task of an event as the client's strategy knows it: where tasks are the client's own,
        numbered by its own stream."""
        task = self.stream.experiences[event.task].task
        return task if self.in_step else replace(task, index=own.task)

    def _trains(self, task: int) -> bool:
        return trains(type(self.strategy), self.adapter is not None, task)

    def _strategy(self) -> Strategy:
        return replace(self.strategy)

    def _starting_tensors(
        self, state: GlobalState, client: int | None, own: ClientState, task: int
    ) -> dict[str, Tensor]:
        """What a client, or the server, starts a task from."""
        key = self.aggregator.key_of(task)
        return self.aggregator.starting_tensors(state, own.tensors, self._rank(client), key)

    def _rank(self, client: int | None) -> int | None:
        """None for the server, and where all have the adapter's."""
        return self.ranks[client % len(self.ranks)] if self.ranks and client is not None else None

    def _at_a_boundary(
        self, shared_model: SharedModel | None, state: GlobalState, task: int, end: bool
    ) -> tuple[AdaptedModel, Strategy]:
        """The model and strategy as a task is about to begin, with its classes, or to end. Before
        the first one they are set up."""
        if shared_model is None:
            model, strategy = AdaptedModel(self.backbone, self.adapter, self.seed), self._strategy()
            strategy.setup(model)
        else:
            tensors = self._starting_tensors(state, None, ClientState(), task)
            model, strategy = self._resumed(shared_model, tensors, state.ledger)
        if not end:
            seen = self.stream.experiences[: task + 1] if self.in_step else self.stream.experiences
            model.grow_head(max(max(each.task.classes) for each in seen) + 1)
        return model, strategy

    def _resumed(
        self, shared_model: SharedModel, tensors: Mapping[str, Tensor], ledger: Mapping[str, Tensor]
    ) -> tuple[AdaptedModel, Strategy]:
        """The model and strategy of a shared model, with the given tensors in place of its own."""
        model, strategy = AdaptedModel(self.backbone, self.adapter, self.seed), self._strategy()
        lay_out(shared_model, tensors, ledger, model, strategy)
        return model, strategy

    def _at_its_task(
        self,
        shared_model: SharedModel,
        state: GlobalState,
        tensors: dict[str, Tensor],
        event: Event,
        own: ClientState,
    ) -> SharedModel:
        """The client's own shared model at the task of its event. Where that has begun since its
        last round, the earlier task ends and this one begins, at the client."""
        at = own.event_time
        if at == event.time:
            assert own.shared_model is not None
            return own.shared_model
        if at is not None:
            before = self.manifest.latest(event.client, at)
            assert before is not None
            assert own.shared_model is not None
            shared_model = own.shared_model
            ended = self._starting_tensors(state, event.client, own, before.task)
            model, strategy = self._resumed(shared_model, ended, state.ledger)
            old, seen = self.task_of(before, own), self._batch_of(event.client, at)
            review = self._summed(strategy.review, model, replace(seen, task=old))
            strategy.end_task(model, old, review)
            shared_model = shared_model_of(model, strategy, state.tensors)
        model, strategy = self._resumed(shared_model, tensors, state.ledger)
        own.task += 1
        task, data = self.task_of(event, own), self._batch_of(event.client, event.time)
        preview = self._summed(strategy.preview, model, replace(data, task=task))
        strategy.begin_task(model, task, preview)
        if strange := sorted(model.parameters().keys() - state.tensors.keys()):
            raise InputError(
                f"strategy.name: it trains {strange[0]!r} from some task on without saying so (by "
                "`grows`); clients whose tasks do not come in step share what was there at first"
            )
        found = shared_model_of(model, strategy, state.tensors)
        own.shared_model, own.event_time = found, event.time
        return found

    def _memory(self, client: int, own: ClientState) -> Memory | None:
        if self.memory is None:
            return None
        memory = Memory(self.memory, seed_of(self.seed, "client", client))
        if own.memory is not None:
            memory.load_state_dict(own.memory)
        return memory

    @torch.no_grad()
    def _offer_past(
        self,
        model: AdaptedModel,
        strategy: Strategy,
        memory: Memory,
        client: int,
        event: Event,
        own: ClientState,
    ) -> None:
        """Let the memory keep what it wants of the events before this one; they are over."""
        past = [each for each in self.manifest.events(client) if each.time < event.time]

        def note(rows: Batch) -> Mapping[str, Tensor]:
            chunks = rows.chunks(self.training.evaluation_batch_size)
            notes = [strategy.annotate(model, each.to(self.backbone.device)) for each in chunks]
            return {name: torch.cat([each[name] for each in notes]) for name in notes[0]}

        for each in past[own.offered :]:
            memory.offer(self._batch_of(client, each.time), note)
        if past:
            own.offered = len(past)

    def _descend(
        self,
        model: AdaptedModel,
        strategy: Strategy,
        memory: Memory | None,
        data: Batch,
        client: int,
        round: int,
    ) -> float:
        """The client's steps. Returns their mean loss, if it may be known."""
        size = self.training.batch_size
        num_steps = self.local.num_steps(len(data), size)
        stepper = Stepper(strategy, model, self.training, num_steps, Alone())
        hidden = None if self.privacy is None else self.privacy.of_rows(len(data), size)
        if hidden is not None:
            self._descend_privately(stepper, hidden, num_steps, data, client, round)
            return nan
        device, before = self.backbone.device, round * _STEPS_OF_A_ROUND
        total = torch.zeros((), device=device)
        with model.dropping(generator_of(self.seed, "dropout", round, client)):
            batches = self._batches(data, client, round)
            for step, batch in zip(range(num_steps), batches, strict=False):
                replay = Replay(memory, self._rows, before + step, device)
                total += stepper.step(batch, replay)
        return float(total) / num_steps

    def _descend_privately(
        self,
        stepper: Stepper,
        privacy: ExamplePrivacy,
        num_steps: int,
        data: Batch,
        client: int,
        round: int,
    ) -> None:
        """As many steps, each on rows that are drawn for it."""
        steps = PrivateSteps(stepper, privacy, len(data), self.seed, round, client)
        with stepper.model.dropping(generator_of(self.seed, "dropout", round, client)):
            for step in range(num_steps):
                rows = sample_rows(len(data), privacy, self.seed, round, client, step)
                steps.step(data[rows])

    def _held(
        self,
        strategy: Strategy,
        start: Mapping[str, Tensor],
        shared: Mapping[str, Tensor],
        own: ClientState,
    ) -> Strategy:
        """The strategy, held to the others' where the job says so."""
        if self.drift.name == "fedprox":
            return Corrected(strategy, start, mu=self.drift.mu)
        if self.drift.name == "scaffold":
            return Corrected(strategy, start, own=own.control, shared=shared)
        return strategy

    @torch.no_grad()
    def _grams(self, model: AdaptedModel, data: Batch) -> dict[str, Tensor]:
        """sum x x^T [d_in, d_in] over the inputs x of each module that a LoRA adapts."""
        adapters = modules_of(every_tensor(model))
        paths = {each: each.partition(".")[2] for each in adapters}
        sums: dict[str, Tensor] = {}
        for batch in data.by_length().chunks(self.training.evaluation_batch_size):
            placed = batch.to(self.backbone.device)
            read = model.inputs_at(placed.inputs, sorted(set(paths.values())))
            for module, path in paths.items():
                gram = (read[path].T @ read[path]).cpu()
                name = gram_name(module)
                sums[name] = sums[name] + gram if name in sums else gram
        return sums

    def _batches(self, data: Batch, client: int, round: int) -> Iterator[Batch]:
        """Pass after pass over the rows, each in an order of its own."""
        epoch = 0
        while True:
            shuffle = generator_of(self.seed, "order", round, client, epoch)
            order = torch.randperm(len(data), generator=shuffle)
            for rows in order.split(self.training.batch_size):
                yield data[rows]
            epoch += 1

    @torch.no_grad()
    def _summed(
        self,
        look: Callable[[AdaptedModel, Batch], Summary | None],
        model: AdaptedModel,
        data: Batch,
    ) -> Summary | None:
        total = None
        for batch in data.by_length().chunks(self.training.evaluation_batch_size):
            summary = look(model, batch.to(self.backbone.device))
            if summary is None:
                return None
            declared_sums(summary)
            total = summary if total is None else total + summary
        return total

    @torch.no_grad()
    def _released(
        self,
        look: Callable[[AdaptedModel, Batch], Summary | None],
        model: AdaptedModel,
        data: Batch,
        rule: ReleaseRule,
        *names: str | int,
    ) -> dict[str, Tensor]:
        device, chunk = self.backbone.device, self.training.evaluation_batch_size
        return released_sums(
            lambda rows: look(model, rows.to(device)), data, rule, self.seed, *names, chunk=chunk
        )

    def _found(self, client: int, time: float) -> Batch:
        event = self.manifest.latest(client, time)
        assert event is not None
        return self._rows(event.rows)


def blank(row: Batch, task: Task) -> Batch:
    """A row of the form of another, of which nothing is left: no token or pixel, no key by which
    kept features are found, and the first class of a task."""
    # An image that is not decoded yet would go on being there.
    row = row.to(row.labels.device)
    inputs = {
        name: torch.ones_like(each) if name == "attention_mask" else torch.zeros_like(each)
        for name, each in row.inputs.items()
        if name != KEYS
    }
    classes = task.classes or (0,)
    return replace(row, inputs=inputs, labels=torch.full_like(row.labels, classes[0]))


def _detached(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: _sent(tensor) for name, tensor in tensors.items()}


def _sent(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()
