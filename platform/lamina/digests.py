"""Short names made of content: the same in every process and every sweep. No torch here, so that
processes that train nothing need none."""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

WHERE = ("name", "hosts", "tracking", "output_dir", "sweep")
"""Sections of a job that say where it runs and what it leaves, not what it computes."""


def digest_of(value: Any) -> str:
    """Ten hexadecimal digits that depend on the JSON of `value` and on nothing else."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()[:10]


def without_place(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's job without what changes no result."""
    return {key: value for key, value in mapping.items() if key not in WHERE}
