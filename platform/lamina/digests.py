"""Short names made of content, and what makes a trial the same trial: the same in every process and
every sweep. No torch here, so that processes that train nothing need none."""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Protocol

WHERE = ("name", "hosts", "tracking", "output_dir", "sweep")
"""Sections of a job that say where it runs and what it leaves, not what it computes."""

LEARNED_FROM = "learned_from"
"""The key of a trial's job that has the digests of its data and its model, by `stream`, `backbone`
and, in a federation, `clients` (see `lamina.config.identity`)."""


class Start(Protocol):
    """A task boundary of another trial, from which a fork goes on."""

    @property
    def trial(self) -> str:
        """The other trial's id."""
        ...

    @property
    def task(self) -> int:
        """The last task that it had learned."""
        ...


def digest_of(value: Any) -> str:
    """Ten hexadecimal digits that depend on the JSON of `value` and on nothing else."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()[:10]


def without_where(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's job without what changes no result: where it runs, and where the data and the model
    are, once `learned_from` says what is in them."""
    kept = {key: value for key, value in mapping.items() if key not in WHERE}
    known = kept.get(LEARNED_FROM) or {}
    if "stream" in known:
        del kept["stream"]
    if "backbone" in known:
        kept["backbone"] = _without(kept["backbone"], "name")
    if "clients" in known:
        kept["federation"] = _without(kept["federation"], "manifest")
    return kept


def trial_id(mapping: Mapping[str, Any], fork: Start | None = None) -> str:
    """The lasting name of a trial: the same for all jobs that compute the same from the same data
    and weights, and from the same task boundary where it is a fork."""
    digest = digest_of([without_where(mapping), fork and [fork.trial, fork.task]])
    return f"{mapping['strategy']['name']}-{digest}"


def _without(section: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {each: value for each, value in section.items() if each != key}
