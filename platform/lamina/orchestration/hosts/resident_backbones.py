"""What a host keeps in memory from trial to trial: its backbones, and the streams that they have
encoded."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch

from lamina.adapters.kinds.lora import LoRA
from lamina.backbones.backbone import Backbone
from lamina.backbones.content import backbone_digest
from lamina.backbones.load import load_backbone
from lamina.backbones.settings import BackboneSettings
from lamina.config import HostSettings, Job, build_learner, keep_features, parse_job
from lamina.config.identity import check_learned_from, stream_content
from lamina.core import Batch, Samples, Stream
from lamina.digests import digest_of
from lamina.orchestration.federated.learner import FederatedLearner
from lamina.streams import build_stream
from lamina.training.cohort import shared
from lamina.training.learner import Learner
from lamina.training.packing_size import MOST_PACKED, kept_packing_size
from lamina.training.workers import Workers

FindStream = Callable[[str, Callable[[], Stream[Samples]]], Stream[Samples]]
"""Given the digest of a raw stream and how to build it, returns it from wherever it is cheapest."""


def stream_digest(mapping: Mapping[str, Any]) -> str:
    """Names the raw stream of a job: the same for all jobs that see the same rows in the same
    order."""
    return digest_of([mapping.get(key) for key in ("stream", "scenario", "seed")])


def stream_of(job: Job) -> Stream[Samples]:
    """The raw stream of `job`, built here."""
    return build_stream(job.stream, job.scenario, job.seed)


class ResidentBackbones:
    """A cache that lives as long as the process: one backbone per settings, one encoded stream per
    backbone and raw stream."""

    def __init__(
        self,
        device: torch.device,
        hosts: HostSettings,
        find_stream: FindStream,
        fetch_backbone: Callable[[str], None] | None = None,
    ) -> None:
        """`fetch_backbone` is called with the name of each backbone before it is loaded: this
        machine may not have its folder."""
        self._device = device
        self._hosts = hosts
        self._find_stream = find_stream
        self._fetch_backbone = fetch_backbone
        self._backbones: dict[BackboneSettings, Backbone] = {}
        self._streams: dict[tuple[BackboneSettings, str], Stream[Batch]] = {}
        self._sizes: dict[Hashable, int] = {}

    def learner(
        self, mapping: Mapping[str, Any], workers: Workers | None = None
    ) -> Learner | FederatedLearner:
        """The learner that a job asks for: one that sees all rows, able to join a cohort or, with
        `workers`, one of several that train it together; or a federation of several. Raises
        InputError when the job cannot be done."""
        job = parse_job(mapping)
        backbone, stream = self._cached(job)
        if job.federation is not None:
            return FederatedLearner(job, stream, backbone)
        if workers is not None:
            return build_learner(job, stream, backbone, workers)
        return build_learner(job, stream, shared(backbone))

    def packing(self, mapping: Mapping[str, Any]) -> tuple[int, int]:
        """How many trials like a job are worth training at a time, and how many rows of theirs are
        worth running together. Measured on a batch of its stream, once for all that are alike."""
        job = parse_job(mapping)
        most = self._hosts.cohort or MOST_PACKED
        if job.federation is not None or not job.steps_run_layers:
            return self._hosts.cohort or 1, job.training.batch_size
        backbone, stream = self._cached(job)
        key = (job.backbone, job.adapter, job.training.batch_size, stream.name)
        if key not in self._sizes:
            kind = job.adapter or LoRA()
            batch = stream.experiences[0].train[slice(0, job.training.batch_size)]
            self._sizes[key] = kept_packing_size(backbone, kind, batch, most).size
        paying = self._sizes[key]
        return self._hosts.cohort or paying, paying * job.training.batch_size

    def _cached(self, job: Job) -> tuple[Backbone, Stream[Batch]]:
        """The backbone and the encoded stream of a job, made where they are not cached yet."""
        backbone = self._backbones.get(job.backbone)
        if backbone is None:
            if self._fetch_backbone is not None:
                self._fetch_backbone(job.backbone.name)
            backbone = load_backbone(job.backbone, self._device)
            keep_features(backbone, self._hosts)
            self._backbones[job.backbone] = backbone
        key = (job.backbone, stream_digest(job.mapping))
        stream = self._streams.get(key)
        if stream is None:
            raw = self._find_stream(key[1], lambda: stream_of(job))
            stream = self._streams[key] = backbone.encode_stream(raw)
        # This machine may have other files under the same names.
        here = {"stream": stream_content(stream), "backbone": backbone_digest(job.backbone.name)}
        check_learned_from(job, here)
        return backbone, stream
