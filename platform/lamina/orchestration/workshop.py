"""What a host keeps from trial to trial: its backbones, and the streams they have encoded."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from lamina.backbones.backbone import Backbone, BackboneSettings, load_backbone
from lamina.config import Job, build_learner, parse_job
from lamina.core import Batch, Samples, Stream
from lamina.orchestration.federated_learner import FederatedLearner
from lamina.orchestration.identity import digest_of
from lamina.streams import build_stream
from lamina.training.learner import Learner

FindStream = Callable[[str, Callable[[], Stream[Samples]]], Stream[Samples]]
"""Given the digest of a raw stream and how to build it, returns it from wherever it is cheapest."""


def stream_digest(mapping: Mapping[str, Any]) -> str:
    """Names the raw stream of a job: the same for all jobs that see the same rows in the same
    order."""
    return digest_of([mapping.get(key) for key in ("stream", "scenario", "seed")])


def stream_of(job: Job) -> Stream[Samples]:
    """The raw stream of `job`, built here."""
    return build_stream(job.stream, job.scenario, job.seed)


class Workshop:
    """One backbone per settings, one encoded stream per backbone and raw stream, both for as long
    as the process lives."""

    def __init__(self, device: torch.device, find_stream: FindStream) -> None:
        self._device = device
        self._find_stream = find_stream
        self._backbones: dict[BackboneSettings, Backbone] = {}
        self._streams: dict[tuple[BackboneSettings, str], Stream[Batch]] = {}

    def learner(self, mapping: Mapping[str, Any]) -> Learner | FederatedLearner:
        """The learner that a job asks for: one that sees all rows, or a federation of several.
        Raises InputError when the job cannot be done."""
        job = parse_job(mapping)
        backbone = self._backbones.get(job.backbone)
        if backbone is None:
            backbone = self._backbones[job.backbone] = load_backbone(job.backbone, self._device)
        key = (job.backbone, stream_digest(job.mapping))
        stream = self._streams.get(key)
        if stream is None:
            raw = self._find_stream(key[1], lambda: stream_of(job))
            stream = self._streams[key] = backbone.encode_stream(raw)
        if job.federation is not None:
            return FederatedLearner(job, stream, backbone)
        return build_learner(job, stream, backbone)
