"""Writing a bundle: all of it, or nothing."""

import csv
import json
from copy import copy
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from lamina.adapters.peft_format import export_adapter
from lamina.backbones.content import backbone_digest
from lamina.backbones.encoding import Encoder, TextEncoder
from lamina.backbones.locate import public_name
from lamina.backbones.pixels import ImageEncoder
from lamina.bundles.bundle import (
    ADAPTERS,
    CLASSES,
    FACTS,
    JOB,
    LEARNER,
    MODEL,
    TOKENIZER,
)
from lamina.bundles.facts import FORMAT, BackboneFacts, DataFacts, Facts, Row, TaskFacts
from lamina.bundles.pixels import packed
from lamina.config.identity import stream_content
from lamina.config.job import Job
from lamina.core import KEYS, PARTS, Batch, D, Part, Stream
from lamina.evaluation.answers import Answers
from lamina.files import replacing_folder
from lamina.folders import PREDICTIONS
from lamina.training.checkpoint import pack
from lamina.training.learner import Learner
from lamina.training.scorecard import EVALUATED

_PACKAGES = ("lamina", "torch", "transformers", "peft")


@dataclass(frozen=True)
class Reached:
    """Numbers that a learner's own scorecard does not have, under their names in `Facts`."""

    metrics: dict[str, float]
    validation: tuple[Row, ...]
    test: tuple[Row, ...]


def write_bundle(
    job: Job,
    learner: Learner,
    folder: Path,
    *,
    name: str,
    trial: str,
    data: tuple[DataFacts, ...] | None = None,
    origin: tuple[str, ...] = (),
    reached: Reached | None = None,
) -> None:
    """Write what a learner knows into `folder`, which is there whole afterwards or as it was.

    `name` and `trial` are what people and the sweep call the trial. Where it has learned on from a
    bundle, `data` and `origin` say so: see `Facts`. `reached`: its numbers; by default those of its
    scorecard.
    """
    with replacing_folder(folder) as unfinished:
        _write_tensors(job, learner, unfinished)
        _write_adapters(learner, unfinished / ADAPTERS)
        save_encoder(learner.model.backbone.inputs.encoder, unfinished / TOKENIZER)
        if learner.stream.answers == "classes":
            (unfinished / PREDICTIONS).write_bytes(predictions_of(learner))
        classes = json.dumps(classes_of(learner), indent=1) + "\n"
        (unfinished / CLASSES).write_text(classes, encoding="utf-8")
        digests = {
            path.relative_to(unfinished).as_posix(): sha256(path.read_bytes()).hexdigest()
            for path in sorted(unfinished.rglob("*"))
            if path.is_file()
        }
        facts = _facts(job, learner, reached or _reached(learner), digests)
        known = replace(facts, name=name, trial=trial, origin=origin, data=data or facts.data)
        (unfinished / FACTS).write_bytes(known.dump())


def predictions_of(learner: Learner) -> bytes:
    """The predictions for the test parts when the last task was evaluated, as csv."""
    file = StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["row", "task", "label", "predicted", "place"])
    names = learner.stream.class_names
    answered = learner.scores.answers.get("test", [])
    for each, found in zip(learner.stream.experiences, answered, strict=False):
        if not isinstance(found, Answers):
            continue
        columns = (each.test.ids, found.labels, found.predicted, found.place)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        writer.writerows(
            [row, each.task.name, names[label], names[predicted], place + 1]
            for row, label, predicted, place in rows
        )
    return file.getvalue().encode()


def classes_of(learner: Learner) -> dict[str, Any]:
    """The tasks learned, with the names of their classes; and of each class, how many rows were
    asked when the last task was evaluated, and the share that was right (null of none)."""
    names = learner.stream.class_names
    learned = [each.task for each in learner.stream.experiences[: learner.next_task]]
    known = sorted({number for task in learned for number in task.classes})
    parts = {part: _by_class(learner, part) for part in EVALUATED} if known else {}
    return {
        "tasks": [
            {"name": each.name, "classes": [names[number] for number in each.classes]}
            for each in learned
        ],
        "classes": [
            {"name": names[number], **{part: found[number] for part, found in parts.items()}}
            for number in known
        ],
    }


def _by_class(learner: Learner, part: Part) -> list[dict[str, float | None]]:
    """Rows and accuracy of each class of the stream."""
    answered = learner.scores.answers.get(part, [])[: learner.next_task]
    found = [each for each in answered if isinstance(each, Answers)]
    labels = torch.cat([each.labels for each in found] or [torch.zeros(0, dtype=torch.int64)])
    right = torch.cat([each.right for each in found] or [torch.zeros(0, dtype=torch.bool)])
    size = len(learner.stream.class_names)
    rows = torch.bincount(labels, minlength=size).tolist()
    hits = torch.bincount(labels[right], minlength=size).tolist()
    return [
        {"rows": number, "accuracy": hit / number if number else None}
        for number, hit in zip(rows, hits, strict=True)
    ]


def end_of_ids(stream: Stream[D]) -> int:
    """The first number above the ids of a stream's rows."""
    parts = [each.part(part) for each in stream.experiences for part in PARTS]
    return max((int(part.ids.max()) + 1 for part in parts if len(part)), default=0)


def save_encoder(encoder: Encoder, folder: Path) -> None:
    """The tokenizer of texts, cut to the longest that the bundle reads, or the processor of
    images, as transformers saves it."""
    if isinstance(encoder, TextEncoder):
        own = copy(encoder.tokenizer)
        own.model_max_length = encoder.max_length
        own.save_pretrained(folder)
    elif isinstance(encoder, ImageEncoder):
        encoder.processor.save_pretrained(folder)


def _write_tensors(job: Job, learner: Learner, folder: Path) -> None:
    """The job beside them: a bundle is of no use without either."""
    state = learner.state_dict()
    answering = {key: state.pop(key) for key in ("model", "strategy")}
    (folder / MODEL).write_bytes(pack(answering))
    (folder / LEARNER).write_bytes(pack({**state, "exemplars": _exemplars(learner)}))
    (folder / JOB).write_text(json.dumps(job.mapping, indent=1) + "\n", encoding="utf-8")


def _exemplars(learner: Learner) -> dict[str, Any] | None:
    """The rows of the memory by themselves: the stream need not be there when it learns on."""
    if learner.memory is None or len(learner.memory) == 0:
        return None
    rows: Batch = learner.rows(learner.memory.ids).to("cpu")
    inputs = {name: packed(each) for name, each in rows.inputs.items() if name != KEYS}
    return {"inputs": inputs, "labels": rows.labels, "ids": rows.ids}


def _write_adapters(learner: Learner, folder: Path) -> None:
    """Every trained adapter in PEFT's format. Heads and free tensors mean nothing without their
    strategy, and are in the model's file alone."""
    for name, adapter in learner.model.adapters.items():
        if adapter.kind is not None:
            backbone, answers = learner.model.backbone, learner.stream.answers
            export_adapter(adapter.kind, adapter.tensors, backbone, folder / name, answers)


def _reached(learner: Learner) -> Reached:
    rows = {part: matrix.rows for part, matrix in learner.scores.matrices.items()}
    validation, test = (tuple(map(tuple, rows[part])) for part in EVALUATED)
    return Reached(learner.scores.metrics(), validation, test)


def _facts(job: Job, learner: Learner, reached: Reached, digests: dict[str, str]) -> Facts:
    stream, backbone = learner.stream, learner.model.backbone
    learned = stream.experiences[: learner.next_task]
    digest = (job.learned_from or {}).get("stream") or stream_content(stream)
    scenario = asdict(job.scenario)
    return Facts(
        format=FORMAT,
        name=job.name,
        trial="",
        scenario=stream.scenario,
        modality=stream.modality,
        one_pass=stream.one_pass,
        class_names=stream.class_names,
        tasks=tuple(
            TaskFacts(
                each.task.name,
                each.task.classes,
                {part: len(each.part(part)) for part in PARTS},
            )
            for each in learned
        ),
        backbone=BackboneFacts(
            name=backbone.settings.name,
            source=public_name(backbone.settings.name),
            digest=(job.learned_from or {}).get("backbone") or backbone_digest(job.backbone.name),
            model_type=backbone.architecture.model_type,
            width=backbone.dim,
            pooling=backbone.pooling,
            max_length=backbone.inputs.max_length,
        ),
        data=(
            DataFacts(
                stream=job.settings()["stream"],
                scenario=scenario,
                seed=job.seed,
                digest=digest,
                num_tasks=len(stream),
                first_id=0,
                end_id=end_of_ids(stream),
            ),
        ),
        **vars(reached),
        origin=(),
        versions={package: version(package) for package in _PACKAGES},
        files=digests,
    )
