"""Short names for settings, the same in every process and every run."""

import json
from hashlib import sha256
from typing import Any


def digest_of(value: Any) -> str:
    """Ten hexadecimal digits that depend on the JSON of `value` and on nothing else."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()[:10]
