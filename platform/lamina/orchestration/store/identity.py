"""What makes a trial the same trial, in every process and every sweep."""

from collections.abc import Mapping
from typing import Any

from lamina.digests import digest_of, without_place
from lamina.orchestration.store.shared_store import Boundary


def trial_id(mapping: Mapping[str, Any], fork: Boundary | None = None) -> str:
    """What makes a trial the same trial in a sweep that is resumed: what its result depends on."""
    digest = digest_of([without_place(mapping), fork and [fork.trial, fork.task]])
    return f"{mapping['strategy']['name']}-{digest}"
