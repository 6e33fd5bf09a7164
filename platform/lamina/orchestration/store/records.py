"""Records that the store receives and returns. They travel between processes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Report = dict[str, Any]
"""A TaskReport as plain JSON."""


@dataclass(frozen=True)
class Boundary:
    """The end of a task of a trial: where it can be taken up again, by itself or by a fork of
    it."""

    trial: str
    task: int


@dataclass(frozen=True)
class Claim:
    """A trial that a host has to train."""

    trial: str
    name: str
    """What a person calls it."""
    mapping: Mapping[str, Any]
    """Its whole job, resolved."""
    deaths: int = 0
    """How often its host died while it was there on this task. Above 0 it is trained alone."""


@dataclass(frozen=True)
class Expected:
    """A trial that is known before it is asked for."""

    name: str
    mapping: Mapping[str, Any]
    stage: str | None
    """The name of its first stage, if it shares that with other trials."""


@dataclass(frozen=True)
class Configuration:
    """The driver's description of a configuration of Ray Tune: the job that it stands for, or why
    it is none."""

    name: str = ""
    mapping: Mapping[str, Any] | None = None
    """The whole job, resolved; None: it is no job."""
    stage: str | None = None
    """Its first stage: trials of one stage are the same until their second task."""
    error: str | None = None
