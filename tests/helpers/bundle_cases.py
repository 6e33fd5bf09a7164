"""Jobs over the small stream of nouns as files, whole and with its last task held back."""

import csv
from pathlib import Path
from typing import Any

from lamina.config import Job, build_learner, parse_job
from lamina.config.identity import identified, learned_from
from lamina.core import Batch, Samples, Stream
from lamina.strategies import strategy_class
from lamina.strategies.base import NO_ADAPTER
from lamina.streams import build_stream
from lamina.training.learner import Learner
from nouns import NOUNS, PHRASES, SMALL

SPLITS = {"train": slice(0, 10), "validation": slice(10, 12), "test": slice(12, 16)}
"""Of the sixteen sentences of a task."""
_STREAMS: dict[str, Stream[Samples]] = {}


def write_data(folder: Path, tasks: range, is_domain: bool = False) -> Path:
    """These of the three tasks as train.csv, validation.csv and test.csv. As domains, each asks
    with its own nouns for the same two things."""
    folder.mkdir(parents=True)
    for split, rows in SPLITS.items():
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label", "task"])
            for task in tasks:
                classes = (2 * task, 2 * task + 1)
                sentences = [
                    (phrase.format(NOUNS[c]), NOUNS[c % 2 if is_domain else c], f"task {task}")
                    for phrase in PHRASES
                    for c in classes
                ]
                writer.writerows(sentences[rows])
    return folder


def mapping_of(name: str, data: Path, backbone: Path, **sections: Any) -> dict[str, Any]:
    """A job of a strategy with what it declares that it needs."""
    cls = strategy_class(name)
    kind = "lora"
    if cls.adapters is not None and kind not in cls.adapters:
        kind = None if NO_ADAPTER in cls.adapters else cls.adapters[0]
    return {
        "name": name,
        "stream": {
            "name": "huggingface",
            "path": str(data),
            "text_column": "text",
            "task_column": "task",
            "validation_split": "validation",
            "test_split": "test",
        },
        "scenario": {"kind": cls.scenarios[0]},
        "backbone": {"name": str(backbone)},
        "adapter": {"kind": kind} if kind else None,
        "strategy": {"name": name, **SMALL.get(name, {})},
        "memory": {"policy": "class_balanced", "size": 8} if cls.needs_memory else None,
        "training": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-2},
        "tracking": {"enabled": False},
        **sections,
    }


def calls_job(strategy: str, model: Path, **sections: Any) -> Job:
    """A job of a language model that learns `calls_stream`, in place of the stream it names."""
    return parse_job(
        {
            "name": strategy,
            "stream": {"name": "assistant_calls"},
            "scenario": {"kind": "domain_incremental"},
            "backbone": {"name": str(model)},
            "adapter": {"kind": "lora"},
            "strategy": {"name": strategy},
            "training": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-2},
            "tracking": {"enabled": False},
            **sections,
        }
    )


def raw_stream(job: Job) -> Stream[Samples]:
    """A job's rows, read once for all jobs that read the same."""
    key = repr((job.stream, job.scenario, job.seed))
    if key not in _STREAMS:
        _STREAMS[key] = build_stream(job.stream, job.scenario, job.seed)
    return _STREAMS[key]


def new_learner(mapping: dict[str, Any], backbone: Any) -> tuple[Job, Learner]:
    """A job's learner at its beginning, and the job with what it learns from."""
    job = parse_job(mapping)
    raw = raw_stream(job)
    job = identified(job, learned_from(job, raw))
    encoded: Stream[Batch] = backbone.encode_stream(raw)
    return job, build_learner(job, encoded, backbone)
