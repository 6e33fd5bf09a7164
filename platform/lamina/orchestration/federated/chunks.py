"""The desk at which federated work is done: one backbone, and chunks of items of many clients. What
comes in and goes out is bytes, so it does not matter whose process it stands in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pickle import PickleBuffer
from typing import Any, Protocol

import torch
from torch import Tensor

from lamina.backbones.backbone import Backbone
from lamina.backbones.load import load_backbone
from lamina.config import Job, build_learner, keep_features, parse_job
from lamina.core import Batch, Samples, Stream, Summary
from lamina.federation.algebra.control_variates import CONTROL
from lamina.federation.checking import Slots
from lamina.federation.client.client import ClientWork, Own
from lamina.federation.privacy.wire import update_to_bytes
from lamina.federation.shared_model import Frame
from lamina.federation.state import GlobalState, Scaling
from lamina.federation.timetable import BOUNDARIES, Stop, timetable
from lamina.federation.update import ClientUpdate
from lamina.federation.work import Flags, Item
from lamina.streams.client_streams import ClientStreams
from lamina.streams.manifest import StreamManifest
from lamina.training.checkpoint import pack, unpack
from lamina.training.cohort import shared, together

Fetch = Callable[[str], bytes]
"""The bytes of something that was broadcast, by its key."""
_KEPT = 8
"""Global states and frames that a desk remembers in the form that it works with."""
CLIENTS_PACKED = 16
"""Clients of a chunk that train at a time."""
ROWS_PACKED = {"cpu": 64}
"""Rows of theirs that go through the backbone together, by its device: what a core gains by packing
is gone at about a thousand tokens."""
MOST_ROWS_PACKED = 1024
"""The same on a device that is not named there."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive items of a work, with what only they need."""

    stop: Stop
    items: tuple[Item, ...]
    owns: tuple[bytes | None, ...]
    """What each item's client keeps."""
    frame: str | None
    """The key of the frame."""
    states: Mapping[int, str]
    """By version, the key of the global state."""
    summary: str | None = None
    """The key of what clients said, for a boundary."""


@dataclass(frozen=True)
class Answer:
    """What an item came to, as bytes."""

    update: bytes | None = None
    own: bytes | None = None
    turned: bytes | None = None
    flags: Flags = field(default_factory=dict)
    declared: Slots = field(default_factory=dict)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # Beside the pickle its bytes are not copied into it: half the time of their journey.
        parts = (self.update, self.own, self.turned)
        beside = (None if part is None else PickleBuffer(part) for part in parts)
        return _arrived, (*beside, self.flags, self.declared)


def _arrived(update: Any, own: Any, turned: Any, flags: Flags, declared: Slots) -> Answer:
    said, kept, frame = (None if part is None else bytes(part) for part in (update, own, turned))
    return Answer(said, kept, frame, flags, declared)


class Desk(Protocol):
    """Does chunks. The same chunk gives the same answers at every desk."""

    def do(self, chunk: Chunk, fetch: Fetch) -> list[Answer]:
        """The answers to its items, in order."""
        ...


@dataclass(frozen=True)
class Bound:
    """Accuracies of a learner that is trained beside the federation."""

    rows: Mapping[str, list[list[float | None]]]
    """By part, R."""
    tasks: tuple[str, ...]
    """The names of its tasks."""


class LearningDesk:
    """The desk of a job: clients that train adapters on a backbone."""

    def __init__(
        self, job: Job, backbone: Backbone, stream: Stream[Batch], manifest: StreamManifest
    ) -> None:
        """Desks of several jobs may share the backbone and the stream that it has encoded."""
        self.job = job
        self.work = client_work(job, shared(backbone), stream, manifest)
        # Not found by trying, as for trials: hosts that pack alike give the same bytes.
        most_rows = ROWS_PACKED.get(backbone.device.type, MOST_ROWS_PACKED)
        self._desk = ClientDesk(self.work, CLIENTS_PACKED, most_rows)

    def do(self, chunk: Chunk, fetch: Fetch) -> list[Answer]:
        """The answers to its items, in order."""
        return self._desk.do(chunk, fetch)

    def bound(self, client: int | None, passes: float) -> Bound:
        """What a client reaches alone, or (None) one learner on the rows of all, with so many
        passes over the rows of each task."""
        work = self.work
        stream = work.stream
        if client is not None:
            stream = ClientStreams(work.stream, work.manifest)[client]
            tested = tuple(each for each in stream.experiences if len(each.test) > 0)
            if not tested:
                return Bound({}, ())
            stream = replace(stream, experiences=tested)
        training = replace(self.job.training, epochs=max(1, round(passes)))
        learner = build_learner(replace(self.job, training=training), stream, work.backbone)
        reports = list(learner.learn())
        return Bound(
            {
                "validation": [each.validation for each in reports],
                "test": [each.test for each in reports],
            },
            tuple(each.task.name for each in stream.experiences),
        )


class Clients(Protocol):
    """What is done at a desk, as tensors; `ClientWork` says what each does."""

    def turn(
        self, frame: Frame | None, state: GlobalState, task: int, end: bool, summary: Summary | None
    ) -> tuple[Frame, dict[str, Tensor]]: ...

    def look(
        self,
        frame: Frame | None,
        state: GlobalState,
        base: str,
        client: int,
        time: int,
        task: int,
        after: bool,
    ) -> ClientUpdate: ...

    def declared(
        self, frame: Frame | None, state: GlobalState, task: int, after: bool
    ) -> Slots: ...

    def train(
        self,
        frame: Frame,
        state: GlobalState,
        base: str,
        client: int,
        round: int,
        time: float,
        own: Own,
    ) -> tuple[ClientUpdate, Own]: ...

    def answer_alone(
        self,
        frame: Frame,
        state: GlobalState,
        update: ClientUpdate,
        client: int,
        time: float,
        own: Own,
    ) -> Flags: ...

    def answer(
        self, frame: Frame, state: GlobalState, task: int, client: int | None, own: Own
    ) -> Flags: ...


class ClientDesk:
    """Does chunks with whatever the clients do."""

    def __init__(self, work: Clients, most: int = 1, most_rows: int = 0) -> None:
        """`most` clients train at a time, and `most_rows` rows of theirs go through the backbone
        together, if it is a `shared` one."""
        self._work = work
        self._most = most
        self._most_rows = most_rows
        self._known: dict[str, Any] = {}

    def do(self, chunk: Chunk, fetch: Fetch) -> list[Answer]:
        """The answers to its items, in order."""
        calls = [
            partial(self._done, chunk, item, own, fetch)
            for item, own in zip(chunk.items, chunk.owns, strict=True)
        ]
        if chunk.stop.kind == "train" and self._most > 1:
            return together(calls, self._most, self._most_rows)
        return [call() for call in calls]

    def _done(self, chunk: Chunk, item: Item, own: bytes | None, fetch: Fetch) -> Answer:
        stop, work = chunk.stop, self._work
        state, base = self._state(chunk.states[item.version], fetch)
        frame = None if chunk.frame is None else self._frame(chunk.frame, fetch)
        kept: Own = {} if own is None else unpack(own)
        if stop.kind in BOUNDARIES:
            said = None if chunk.summary is None else Summary(unpack(fetch(chunk.summary)))
            turned, tensors = work.turn(frame, state, item.task, stop.kind == "end", said)
            return Answer(turned=pack({"frame": turned.plain(), "tensors": tensors}))
        if stop.kind in ("preview", "review"):
            after = stop.kind == "review"
            if item.client is None:
                return Answer(declared=work.declared(frame, state, item.task, after))
            update = work.look(frame, state, base, item.client, int(item.time), item.task, after)
            return Answer(update_to_bytes(update), own)
        assert frame is not None, "nobody is trained or asked before the first boundary"
        if stop.kind == "evaluate":
            return Answer(flags=work.answer(frame, state, item.task, item.client, kept))
        assert item.client is not None
        update, kept = work.train(frame, state, base, item.client, item.version, item.time, kept)
        alone: Flags = {}
        if stop.is_last:
            alone = work.answer_alone(frame, state, update, item.client, item.time, kept)
        return Answer(update_to_bytes(update), pack(kept) if kept else None, flags=alone)

    def _state(self, key: str, fetch: Fetch) -> tuple[GlobalState, str]:
        if key not in self._known:
            found = unpack(fetch(key))
            state = GlobalState(
                found["tensors"],
                Scaling(**found["scaling"]),
                found["seed"],
                found["ledger"],
                memory=found["controls"],
            )
            self._remember(key, (state, state.digest()))
        known: tuple[GlobalState, str] = self._known[key]
        return known

    def _frame(self, key: str, fetch: Fetch) -> Frame:
        if key not in self._known:
            self._remember(key, Frame.of(unpack(fetch(key))))
        known: Frame = self._known[key]
        return known

    def _remember(self, key: str, value: Any) -> None:
        self._known[key] = value
        while len(self._known) > _KEPT:
            del self._known[next(iter(self._known))]


def broadcast(state: GlobalState) -> bytes:
    """A global state as clients are sent it."""
    scaling = {"alpha": state.scaling.alpha, "power": state.scaling.power}
    return pack(
        {
            "tensors": dict(state.tensors),
            "ledger": dict(state.ledger),
            "controls": {n: each for n, each in state.memory.items() if n.startswith(CONTROL)},
            "scaling": scaling,
            "seed": state.seed,
        }
    )


def turned_of(content: bytes) -> tuple[Frame, dict[str, Tensor]]:
    """What an answer's `turned` says."""
    plain = unpack(content)
    return Frame.of(plain["frame"]), plain["tensors"]


def desk_of(
    mapping: Mapping[str, Any],
    raw: Stream[Samples],
    manifest: StreamManifest,
    device: torch.device,
) -> LearningDesk:
    """A desk with a backbone of its own."""
    job = parse_job(mapping)
    backbone = load_backbone(job.backbone, device)
    keep_features(backbone, job.hosts)
    return LearningDesk(job, backbone, backbone.encode_stream(raw), manifest)


def client_work(
    job: Job, backbone: Backbone, stream: Stream[Batch], manifest: StreamManifest
) -> ClientWork:
    """The work of a job's clients on an encoded stream."""
    assert job.federation is not None, "only a job with a federation has clients"
    federation = job.federation
    return ClientWork(
        strategy=job.strategy,
        adapter=job.adapter,
        memory=job.memory,
        training=job.training,
        local=federation.settings.local,
        aggregator=federation.aggregator,
        seed=job.seed,
        stream=stream,
        manifest=manifest,
        in_step=tasks_at_server(job, manifest),
        backbone=backbone,
        drift=federation.drift,
        privacy=federation.privacy,
        ranks=federation.settings.ranks,
    )


def stops_of(job: Job, manifest: StreamManifest) -> tuple[Stop, ...]:
    """The timetable of a job."""
    assert job.federation is not None
    rounds = job.federation.settings.rounds
    return timetable(manifest, type(job.strategy), job.adapter is not None, rounds)


def tasks_at_server(job: Job, manifest: StreamManifest) -> bool:
    """Whether tasks begin and end for all clients at once."""
    return any(stop.kind == "end" for stop in stops_of(job, manifest))


def chunks_of(items: Sequence[Item], most: int) -> list[slice]:
    """Consecutive runs of items, of lengths that differ by one at most: the same however many hosts
    there are."""
    number = min(len(items), most)
    bounds = [len(items) * place // number for place in range(number + 1)] if number else [0]
    return [slice(start, end) for start, end in pairwise(bounds)]
