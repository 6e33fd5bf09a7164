"""A worker of a federation: one backbone, and chunks of items of many clients. What comes in and
goes out is bytes, so it does not matter whose process it is in."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import torch

from lamina.backbones.backbone import Backbone
from lamina.backbones.load import load_backbone
from lamina.config import Job, build_learner, keep_features, parse_job
from lamina.config.clients import client_work
from lamina.core import Batch, Samples, Stream, Summary
from lamina.federation.client.client import ClientWork
from lamina.federation.client.client_state import ClientState
from lamina.federation.privacy.wire import update_to_bytes
from lamina.federation.server.outcome import Bound
from lamina.federation.shared_model import SharedModel
from lamina.federation.state import GlobalState
from lamina.federation.timetable import BOUNDARIES
from lamina.federation.work import Flags, Item
from lamina.orchestration.federated.chunks import Chunk, Fetch, ItemResult
from lamina.streams.client_streams import ClientStreams
from lamina.streams.manifest import StreamManifest
from lamina.training.checkpoint import pack, unpack
from lamina.training.cohort import shared, together
from lamina.training.finite import NotFiniteError

_KEPT = 8
"""Global states and shared models that a worker caches, unpacked."""
CLIENTS_PACKED = 16
"""Clients of a chunk that train at a time."""
ROWS_PACKED = {"cpu": 64}
"""Rows of theirs that go through the backbone together, by its device: what a core gains by packing
is gone at about a thousand tokens."""
MOST_ROWS_PACKED = 1024
"""The same on a device that is not named there."""


class Worker(Protocol):
    """Does chunks. The same chunk gives the same answers at every worker."""

    def do(self, chunk: Chunk, fetch: Fetch) -> list[ItemResult]:
        """The answers to its items, in order."""
        ...


class LearningWorker:
    """The worker of a job: clients that train adapters on a backbone."""

    def __init__(
        self, job: Job, backbone: Backbone, stream: Stream[Batch], manifest: StreamManifest
    ) -> None:
        """Desks of several jobs may share the backbone and the stream that it has encoded."""
        self.job = job
        self.work = client_work(job, shared(backbone), stream, manifest)
        # Not found by trying, as for trials: hosts that pack alike give the same bytes.
        most_rows = ROWS_PACKED.get(backbone.device.type, MOST_ROWS_PACKED)
        self._worker = ChunkWorker(self.work, CLIENTS_PACKED, most_rows)

    def do(self, chunk: Chunk, fetch: Fetch) -> list[ItemResult]:
        """The answers to its items, in order."""
        return self._worker.do(chunk, fetch)

    def bound(self, client: int | None, passes: float) -> Bound:
        """What a client reaches alone, or (None) one learner on the rows of all, with so many
        passes over the rows of each task. One that becomes not finite says so and has no rows, as
        what the federation reached is of use without it."""
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
        try:
            reports = list(learner.learn())
        except NotFiniteError as error:
            return Bound({}, (), str(error))
        return Bound(
            {
                "validation": [each.validation for each in reports],
                "test": [each.test for each in reports],
            },
            tuple(each.task.name for each in stream.experiences),
        )


class ChunkWorker:
    """Does chunks with whatever the clients do."""

    def __init__(self, work: ClientWork, most: int = 1, most_rows: int = 0) -> None:
        """`most` clients train at a time, and `most_rows` rows of theirs go through the backbone
        together, if it is a `shared` one."""
        self._work = work
        self._most = most
        self._most_rows = most_rows
        self._known: dict[str, Any] = {}

    def do(self, chunk: Chunk, fetch: Fetch) -> list[ItemResult]:
        """The answers to its items, in order."""
        calls = [
            partial(self._done, chunk, item, own, fetch)
            for item, own in zip(chunk.items, chunk.owns, strict=True)
        ]
        if chunk.stop.kind == "train" and self._most > 1:
            return together(calls, self._most, self._most_rows)
        return [call() for call in calls]

    def _done(self, chunk: Chunk, item: Item, own: bytes | None, fetch: Fetch) -> ItemResult:
        stop, work = chunk.stop, self._work
        state, base = self._state(chunk.states[item.version], fetch)
        shared_model = (
            None if chunk.shared_model is None else self._shared_model(chunk.shared_model, fetch)
        )
        kept = ClientState() if own is None else ClientState.of(unpack(own))
        if stop.kind in BOUNDARIES:
            said = None if chunk.summary is None else Summary(unpack(fetch(chunk.summary)))
            boundary, tensors = work.task_boundary(
                shared_model, state, item.task, stop.kind == "end", said
            )
            return ItemResult(boundary=pack({"shared_model": boundary.plain(), "tensors": tensors}))
        if stop.kind in ("preview", "review"):
            after = stop.kind == "review"
            if item.client is None:
                return ItemResult(declared=work.declared(shared_model, state, item.task, after))
            update = work.summarise(
                shared_model, state, base, item.client, int(item.time), item.task, after
            )
            return ItemResult(update_to_bytes(update), own)
        assert shared_model is not None, "nobody is trained or asked before the first boundary"
        if stop.kind == "evaluate":
            return ItemResult(flags=work.answer(shared_model, state, item.task, item.client, kept))
        assert item.client is not None
        update, kept = work.train(
            shared_model, state, base, item.client, item.version, item.time, kept
        )
        alone: Flags = {}
        if stop.is_last:
            alone = work.answer_alone(shared_model, state, update, item.client, item.time, kept)
        plain = kept.plain()
        return ItemResult(update_to_bytes(update), pack(plain) if plain else None, flags=alone)

    def _state(self, key: str, fetch: Fetch) -> tuple[GlobalState, str]:
        if key not in self._known:
            state = GlobalState.of(unpack(fetch(key)))
            self._remember(key, (state, state.digest()))
        known: tuple[GlobalState, str] = self._known[key]
        return known

    def _shared_model(self, key: str, fetch: Fetch) -> SharedModel:
        if key not in self._known:
            self._remember(key, SharedModel.of(unpack(fetch(key))))
        known: SharedModel = self._known[key]
        return known

    def _remember(self, key: str, value: Any) -> None:
        self._known[key] = value
        while len(self._known) > _KEPT:
            del self._known[next(iter(self._known))]


def worker_of(
    mapping: Mapping[str, Any],
    raw: Stream[Samples],
    manifest: StreamManifest,
    device: torch.device,
) -> LearningWorker:
    """A worker with a backbone of its own."""
    job = parse_job(mapping)
    backbone = load_backbone(job.backbone, device)
    keep_features(backbone, job.hosts)
    return LearningWorker(job, backbone, backbone.encode_stream(raw), manifest)
