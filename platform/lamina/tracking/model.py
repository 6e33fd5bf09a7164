"""A bundle as a model that a tracker keeps: what it reads, what it needs, where it comes from."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamina.evaluation.measures import measure_in, named
from lamina.training.settings import TrainingSettings

LOADER = "lamina.bundles.pyfunc"
"""The module that makes a model of a bundle's folder."""
_SHOWN = ("validation/average_accuracy", "test/average_accuracy", "test/forgetting")
"""Of the measure that the trial has."""


@dataclass(frozen=True)
class TrackedModel:
    """The bundle of one trial."""

    bundle: Path
    """Its folder."""
    trial: str
    """The trial's id."""
    modality: str
    """`text` or `image`."""
    answers: str
    """`classes`, or `tokens`: texts that it generates."""
    tasks: tuple[str, ...]
    """What its tasks are called, in order."""
    needs_task: bool
    """Whether a prediction must be told which task it is of."""
    max_new_tokens: int | None
    """Tokens of an answer that it generates, at most, where a request does not say; None where
    answers are classes."""
    requirements: tuple[str, ...]
    """The packages that it answers with, as pip reads them."""
    tags: Mapping[str, str]
    """What tells it from others: trial, strategy, scenario, accuracies."""


def tracked_model(bundle: Path) -> TrackedModel:
    """The model in a bundle's folder, by its `bundle.json` and `job.json`."""
    facts: Mapping[str, Any] = json.loads((bundle / "bundle.json").read_bytes())
    job: Mapping[str, Any] = json.loads((bundle / "job.json").read_bytes())
    metrics = facts["metrics"]
    keys = [named(key, measure_in(metrics)) for key in _SHOWN]
    accuracies = {key: metrics[key] for key in keys if key in metrics}
    answers = "classes" if facts["class_names"] else "tokens"
    most = job.get("training", {}).get("max_new_tokens", TrainingSettings.max_new_tokens)
    return TrackedModel(
        bundle=bundle,
        trial=facts["trial"],
        modality=facts["modality"],
        answers=answers,
        tasks=tuple(each["name"] for each in facts["tasks"]),
        needs_task=facts["scenario"] == "task_incremental",
        max_new_tokens=most if answers == "tokens" else None,
        # What follows a plus sign says how a package was built, which no index knows.
        requirements=tuple(
            f"{package}=={version.partition('+')[0]}"
            for package, version in facts["versions"].items()
        ),
        tags={
            "trial": facts["trial"],
            "name": facts["name"],
            "strategy": job["strategy"]["name"],
            "scenario": facts["scenario"],
            **{key.replace("/", "_"): f"{value:.4f}" for key, value in accuracies.items()},
        },
    )
