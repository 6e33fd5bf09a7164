"""The streams and backbones' folders of a sweep, on the driver, offered to the hosts; and what each
trial learns from."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray

from lamina.config import Job, SweepPlan
from lamina.config.identity import identified, learned_from, source_of
from lamina.core import Samples, Stream
from lamina.orchestration.backbone_copies import copy_key, put_copy
from lamina.orchestration.hosts.resident_backbones import stream_digest, stream_of
from lamina.tracking.data import DataDocument, data_document

Offer = Callable[[str, Any], None]
"""Given the digest of a raw stream's settings and Ray's reference to it, tells the hosts of it."""


class DriverStreams:
    """Every stream that a trial has asked for, in Ray's object store and nowhere else.

    Streams of other seeds are read from the driver's disk too: a host needs neither the data nor
    the package that has them. This process owns what it puts there, so that it stays as long as the
    sweep does.
    """

    def __init__(self, built: dict[str, Stream[Samples]]) -> None:
        """`built`, by `stream_digest`, are streams that are there already. They are taken out of
        it one by one, so that none is held twice."""
        self._built = built
        self._offer: Offer | None = None
        self._references: dict[str, Any] = {}
        self._found: dict[str, dict[str, str]] = {}
        self._documents: dict[str, DataDocument] = {}

    def offer_to(self, offer: Offer) -> None:
        """From now on tell hosts of each stream, and now of those that are there already."""
        self._offer = offer
        for digest, reference in self._references.items():
            offer(digest, reference)

    def identified(self, job: Job) -> Job:
        """`job` with what it learns from (see `lamina.config.identity`). Raises InputError where
        its stream cannot be had."""
        key = _reads(job)
        if key not in self._found:
            stream = self._stream(job)
            found = self._found[key] = learned_from(job, stream)
            digest = found["stream"]
            self._documents[digest] = data_document(stream, digest, source_of(job))
            self._put_backbone(job.backbone.name)
        return identified(job, self._found[key])

    def documents(self) -> list[DataDocument]:
        """The documents of every stream so far, for a tracker."""
        return list(self._documents.values())

    def plan(self, plan: SweepPlan) -> SweepPlan:
        """A plan whose every trial is `identified`."""
        points = [
            replace(each, trial=replace(each.trial, job=self.identified(each.trial.job)))
            for each in plan.points
        ]
        return replace(plan, points=tuple(points))

    def _stream(self, job: Job) -> Stream[Samples]:
        digest = stream_digest(job.mapping)
        if digest in self._references:
            found: Stream[Samples] = ray.get(self._references[digest])
            return found
        stream = self._built.pop(digest) if digest in self._built else stream_of(job)
        self._references[digest] = ray.put(stream)
        if self._offer is not None:
            self._offer(digest, self._references[digest])
        return stream

    def _put_backbone(self, name: str) -> None:
        """Have the backbone's folder in the object store, if hosts may lack it."""
        key = copy_key(name)
        for reference in [] if key in self._references else put_copy(name):
            self._references[key] = reference
            if self._offer is not None:
                self._offer(key, reference)


def _reads(job: Job) -> str:
    """The keys of a job that decide which rows, clients and weights it reads."""
    federation = job.federation
    shares = federation and (
        federation.settings.manifest,
        federation.settings.clients,
        federation.partition,
        federation.arrival,
    )
    return repr((stream_digest(job.mapping), job.backbone.name, shares))


def first_streams(
    plan: SweepPlan, checked: list[Stream[Samples]] | None
) -> dict[str, Stream[Samples]]:
    """The first stream of each source and scenario, by `stream_digest`, of those that were
    `checked` for the points of the plan, or built now: what cannot be built fails before Ray is
    started. `checked` is emptied."""
    streams = {}
    seen = []
    for number, point in enumerate(plan.points):
        job = point.trial.job
        # `check_components` built the first of those that differ in their seed only.
        made_of = (job.stream, job.scenario)
        if made_of not in seen:
            seen.append(made_of)
            streams[stream_digest(job.mapping)] = checked[number] if checked else stream_of(job)
    if checked is not None:
        checked.clear()
    return streams
