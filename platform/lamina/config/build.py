"""What a job is built from, and whether it can be built at all, found out cheaply."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from lamina.adapters.model import AdaptedModel
from lamina.backbones.backbone import Backbone
from lamina.backbones.encoding import cut_note
from lamina.backbones.features import default_folder
from lamina.backbones.load import outline_backbone
from lamina.backbones.settings import BackboneSettings
from lamina.config.clients import check_clients
from lamina.config.components import read_sections
from lamina.config.fields import ConfigError
from lamina.config.job import Job
from lamina.config.overrides import nested
from lamina.config.settings import HostSettings
from lamina.core import Batch, Modality, Samples, Stream
from lamina.registry import InputError
from lamina.streams import build_stream
from lamina.tracking.mlflow_store import check_uri
from lamina.training.learner import Learner
from lamina.training.workers import Workers


def build_learner(
    job: Job, stream: Stream[Batch], backbone: Backbone, workers: Workers | None = None
) -> Learner:
    """The learner that a job asks for, at its beginning. Others may share stream and backbone;
    `workers` train it together, each in a process with a learner of its own.

    Raises InputError where the backbone has no place for the adapter.
    """
    return Learner(
        # A new instance, so that the job's own never has a state.
        strategy=replace(job.strategy),
        adapter=job.adapter,
        memory=job.memory,
        training=job.training,
        seed=job.seed,
        stream=stream,
        backbone=backbone,
        workers=workers,
    )


def keep_features(backbone: Backbone, hosts: HostSettings) -> None:
    """Let a backbone keep what its frozen layers make of samples, as a job says."""
    if hosts.features_gb > 0:
        folder = hosts.features_dir or default_folder()
        backbone.keep_features(folder, int(hosts.features_gb * 1e9))


def check_components(jobs: Iterable[Job]) -> list[Stream[Samples]]:
    """Whether streams, backbones, adapters, tracking stores and output folders of all `jobs` are
    there and go together, without loading a weight.

    Returns the raw stream of each job, its notes completed by how many texts the backbone cuts.
    Streams that differ in their seed only are built once, so
    all but the first such job get one that is as long as theirs. Raises ConfigError with a line for
    every problem.
    """
    problems: dict[str, None] = {}
    found = []
    uris: set[str] = set()
    folders: set[Path] = set()
    streams: dict[str, Stream[Samples] | None] = {}
    outlines: dict[BackboneSettings, Backbone | None] = {}
    noted: dict[tuple[str, BackboneSettings], Stream[Samples]] = {}
    for job in jobs:
        if job.output_dir not in folders:
            folders.add(job.output_dir)
            with _taking_down(problems):
                _check_folder(job.output_dir)
        uri = job.tracking.mlflow_uri
        if job.tracking.enabled and uri is not None and uri not in uris:
            uris.add(uri)
            with _taking_down(problems):
                check_uri(uri)
        stream_key = repr((job.stream, job.scenario))
        with _taking_down(problems):
            if stream_key not in streams:
                streams[stream_key] = None
                streams[stream_key] = build_stream(job.stream, job.scenario, job.seed)
        with _taking_down(problems):
            if job.backbone not in outlines:
                outlines[job.backbone] = None
                outlines[job.backbone] = outline_backbone(job.backbone)
        stream, backbone = streams[stream_key], outlines[job.backbone]
        if stream is not None:
            read_by = (stream_key, job.backbone)
            if read_by not in noted:
                noted[read_by] = stream
                with _taking_down(problems):
                    noted[read_by] = _with_cut_texts(stream, backbone)
            found.append(noted[read_by])
            with _taking_down(problems):
                check_clients(job, stream)
        if stream is not None and backbone is not None:
            with _taking_down(problems):
                _check_modality(job, stream, backbone)
                backbone.capabilities.check_answers(stream.answers)
                _check_rank(job, backbone)
                replace(job.strategy).setup(AdaptedModel(backbone, job.adapter, job.seed))
    if problems:
        raise ConfigError(*problems)
    return found


def check_sections(mapping: Mapping[str, Any]) -> None:
    """Whether the stream and the backbone of a job are there, whatever is wrong with its other
    sections. Raises ConfigError with a line for every problem; a section that cannot be read is
    left out, as `parse_job` says why."""
    _, sections = read_sections(nested(mapping, []), [])
    source, scenario = sections["stream"], sections["scenario"]
    problems: dict[str, None] = {}
    if source is not None and scenario is not None:
        with _taking_down(problems):
            build_stream(source, scenario, 0)
    if sections["backbone"] is not None:
        with _taking_down(problems):
            outline_backbone(sections["backbone"])
    if problems:
        raise ConfigError(*problems)


def _with_cut_texts(stream: Stream[Samples], backbone: Backbone | None) -> Stream[Samples]:
    """The same stream, with a note of the texts that the backbone does not read to their end."""
    if backbone is None or backbone.modality != stream.modality:
        return stream
    note = cut_note(stream, backbone.inputs.encoder)
    return stream if note is None else stream.with_notes(note)


@contextmanager
def _taking_down(problems: dict[str, None]) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        problems[str(error)] = None


def _check_folder(output_dir: Path) -> None:
    """It is there and can be written to, or can be made."""
    try:
        there = next(each for each in [output_dir, *output_dir.absolute().parents] if each.exists())
    except OSError as error:
        raise InputError(
            f"output_dir: {str(output_dir)!r} cannot be made ({error.strerror})"
        ) from error
    if not there.is_dir():
        raise InputError(f"output_dir: {str(there)!r} is a file (allowed: a folder)")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"output_dir: {str(there)!r} cannot be written to (allowed: a folder)")


def _check_rank(job: Job, backbone: Backbone) -> None:
    """No matrix of a layer has more than the backbone's width; a rank above it is no low rank."""
    rank = getattr(job.adapter, "rank", 0)
    if rank > backbone.dim:
        raise InputError(
            f"adapter.rank: {rank} is more than the width of {job.backbone.name!r} "
            f"(allowed: 1 to {backbone.dim})"
        )


def _check_modality(job: Job, stream: Stream[Samples], backbone: Backbone) -> None:
    """Backbone and adapter have to read what the stream is of (a strategy's job has seen to it)."""
    readers: list[tuple[str, tuple[Modality, ...]]] = [
        (f"backbone.name: {job.backbone.name!r}", (backbone.modality,))
    ]
    if job.adapter is not None:
        readers.append((f"adapter.kind: {job.adapter.name!r}", job.adapter.modalities))
    for reader, modalities in readers:
        if stream.modality not in modalities:
            raise InputError(
                f"{reader} reads {' or '.join(f'{each}s' for each in modalities)}, but the stream "
                f"{stream.name!r} is of {stream.modality}s"
            )
