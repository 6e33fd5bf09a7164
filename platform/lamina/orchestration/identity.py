"""Short names for settings and trials, the same in every process and every sweep."""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from lamina.config import Job, first_stage
from lamina.config.stages import without_place
from lamina.orchestration.store import Boundary


def digest_of(value: Any) -> str:
    """Ten hexadecimal digits that depend on the JSON of `value` and on nothing else."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()[:10]


def trial_id(mapping: Mapping[str, Any], fork: Boundary | None = None) -> str:
    """What makes a trial the same trial in a sweep that is resumed: what its result depends on."""
    digest = digest_of([without_place(mapping), fork and [fork.trial, fork.task]])
    return f"{mapping['strategy']['name']}-{digest}"


def stage_id(job: Job) -> str | None:
    """What makes the first tasks of two trials the same; None where they share none."""
    stage = first_stage(job)
    return None if stage is None else digest_of(stage)
