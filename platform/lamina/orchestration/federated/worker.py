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
from lamina.config.clients import client_setup
from lamina.core import Batch, Samples, Stream, Summary
from lamina.federation.client.client import ClientWork
from lamina.federation.client.client_state import ClientState
from lamina.federation.privacy.wire import update_to_bytes
from lamina.federation.server.outcome import Bound
from lamina.federation.shared_model import SharedModel
from lamina.federation.state import GlobalState
from lamina.federation.timetable import BOUNDARIES
from lamina.federation.work import Download, Flags, Item
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
        """Workers of several jobs may share the backbone and the stream that it has encoded."""
        self.job = job
        self.setup = client_setup(job, shared(backbone), stream, manifest)
        # Not found by trying, as for trials: hosts that pack alike give the same bytes.
        most_rows = ROWS_PACKED.get(backbone.device.type, MOST_ROWS_PACKED)
        self._worker = ChunkWorker(ClientWork.of(self.setup), CLIENTS_PACKED, most_rows)

    def do(self, chunk: Chunk, fetch: Fetch) -> list[ItemResult]:
        """The answers to its items, in order."""
        return self._worker.do(chunk, fetch)

    def bound(self, client: int | None, passes: float) -> Bound:
        """What a client reaches alone, or (None) one learner on the rows of all, with so many
        passes over the rows of each task. One that becomes not finite says so and has no rows, as
        what the federation reached is of use without it."""
        stream = self.setup.stream
        if client is not None:
            stream = ClientStreams(self.setup.stream, self.setup.manifest)[client]
            tested = tuple(each for each in stream.experiences if len(each.test) > 0)
            if not tested:
                return Bound({}, ())
            stream = replace(stream, experiences=tested)
        training = replace(self.job.training, epochs=max(1, round(passes)))
        learner = build_learner(replace(self.job, training=training), stream, self.setup.backbone)
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
            partial(self._done, chunk, item, client_state, fetch)
            for item, client_state in zip(chunk.items, chunk.client_states, strict=True)
        ]
        if chunk.entry.kind == "train" and self._most > 1:
            return together(calls, self._most, self._most_rows)
        return [call() for call in calls]

    def _done(
        self, chunk: Chunk, item: Item, client_state: bytes | None, fetch: Fetch
    ) -> ItemResult:
        entry, work = chunk.entry, self._work
        download = self._download(chunk, item, fetch)
        end = entry.kind in ("end", "review")
        if entry.kind in BOUNDARIES:
            summary = None if chunk.summary is None else Summary(unpack(fetch(chunk.summary)))
            boundary, tensors = work.boundaries.cross(download, item.task, summary, end=end)
            return ItemResult(boundary=pack({"shared_model": boundary.plain(), "tensors": tensors}))
        if entry.kind in ("preview", "review"):
            if item.client is None:
                return ItemResult(declared=work.boundaries.declared(download, item.task, end=end))
            update = work.boundaries.summarise(download, item, end=end)
            return ItemResult(update_to_bytes(update), client_state)
        before = ClientState() if client_state is None else ClientState.of(unpack(client_state))
        if entry.kind == "evaluate":
            return ItemResult(flags=work.evaluation.served(download, item, before))
        update, after = work.training.train(download, item, before)
        alone: Flags = {}
        if entry.is_last:
            alone = work.evaluation.alone(download, item, update, after)
        plain = after.plain()
        return ItemResult(update_to_bytes(update), pack(plain) if plain else None, flags=alone)

    def _download(self, chunk: Chunk, item: Item, fetch: Fetch) -> Download:
        state, base = self._state(chunk.states[item.version], fetch)
        key = chunk.shared_model
        return Download(state, base, None if key is None else self._shared_model(key, fetch))

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
