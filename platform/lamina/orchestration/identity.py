"""Short names for settings and trials, the same in every process and every sweep."""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from lamina.orchestration.store import Boundary

_NOT_RESULT = ("name", "hosts", "tracking", "output_dir")
"""Sections of a trial's job that say where it runs and what it leaves, not what it computes."""


def digest_of(value: Any) -> str:
    """Ten hexadecimal digits that depend on the JSON of `value` and on nothing else."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()[:10]


def trial_id(mapping: Mapping[str, Any], fork: Boundary | None = None) -> str:
    """What makes a trial the same trial in a sweep that is resumed: what its result depends on."""
    result = {key: value for key, value in mapping.items() if key not in _NOT_RESULT}
    digest = digest_of([result, fork and [fork.trial, fork.task]])
    return f"{mapping['strategy']['name']}-{digest}"
