"""What earlier sweeps in an output folder have trained on other data, or on another model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lamina.config import Point, SweepPlan
from lamina.config.identity import changed
from lamina.config.overrides import dotted
from lamina.digests import LEARNED_FROM, digest_of, without_where

_DECIDE = ("seed", "stream", "scenario", "backbone", "federation")
"""Where something is drawn at random in these, each draw learns from rows or weights of its own."""


@dataclass(frozen=True)
class Outdated:
    """Earlier trials of a point of the plan that count no more."""

    name: str
    """The name of the point of the plan."""
    why: str
    """In words that follow `as`."""
    trials: tuple[str, ...]
    """The ids of the trials."""


def outdated_trials(plan: SweepPlan, rows: Sequence[Mapping[str, Any]]) -> list[Outdated]:
    """Of the `rows` that a store has as its results, those that are trials of the plan but for what
    they learned from. Every point of the plan must be `identified`."""
    found = []
    for point in plan.points:
        if any(key.partition(".")[0] in _DECIDE for key in point.domains):
            continue
        same = _same_job(point.trial.job.mapping, point)
        now = point.trial.job.learned_from or {}
        before = [
            (row["trial"], row["mapping"].get(LEARNED_FROM) or {})
            for row in rows
            if row["reports"] and _same_job(row["mapping"], point) == same
        ]
        stale = [(trial, known) for trial, known in before if known != now]
        if stale:
            ids = tuple(trial for trial, _ in stale)
            found.append(Outdated(point.trial.name, _why(stale[-1][1], now), ids))
    return found


def _why(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    if not before:
        return "what the earlier ones learned from is not recorded"
    return f"{' and '.join(changed(before, now))} changed"


def _same_job(mapping: Mapping[str, Any], point: Point) -> str:
    """The digest of a trial's job without what it learned from, and without what is drawn."""
    kept = {key: value for key, value in mapping.items() if key != LEARNED_FROM}
    own = dotted(without_where(kept))
    return digest_of({key: value for key, value in own.items() if key not in point.domains})
