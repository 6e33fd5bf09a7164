"""Which trials of a plan are the same until their second task, so that one of them learns the first
for all."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from lamina.config.fields import settings_of
from lamina.config.job import Job
from lamina.config.plan import Point, SweepPlan
from lamina.config.reading import Plain
from lamina.config.unused import enter_as_they_pass
from lamina.digests import digest_of, without_where


@dataclass(frozen=True)
class Stage:
    """A first task that several trials share."""

    points: tuple[Point, ...]
    num_trials: int
    """How many trials that is, with those that are drawn at random at a point."""
    late: tuple[str, ...]
    """The dotted keys that its trials may differ in."""


def first_stage(job: Job) -> Plain | None:
    """What a trial is until its first task is learned: its job without what only matters later, as
    its strategy declares it. Equal stages learn the same, to the last bit.

    None where nothing is declared, where rows enter the memory as they pass, so that the first
    task is replayed too (as in every online stream), and in a joint stream, which has one task.
    """
    late = type(job.strategy).from_second_task
    if not late or job.scenario.one_pass or job.scenario.kind == "joint":
        return None
    if job.memory is not None and enter_as_they_pass(job.strategy, job.scenario, job.memory):
        return None
    kept = without_where(job.mapping)
    # Of the strategy itself: a mapping leaves out what a later key makes useless.
    settings = asdict(job.strategy)
    own = {key: settings[key] for key in settings_of(type(job.strategy)) if key not in late}
    return {**kept, "strategy": {"name": job.strategy_name, **own}}


def stage_id(job: Job) -> str | None:
    """What makes the first tasks of two trials the same; None where they share none."""
    stage = first_stage(job)
    return None if stage is None else digest_of(stage)


def shared_stages(plan: SweepPlan) -> tuple[Stage, ...]:
    """The first stages of a plan that two trials or more share, in the plan's order."""
    groups: dict[str, list[Point]] = {}
    for point in plan.points:
        stage = first_stage(point.trial.job)
        late = _late(point.trial.job.strategy)
        # What is drawn is known when it is drawn; a point shares if all of it matters later.
        if stage is not None and set(point.domains) <= set(late):
            groups.setdefault(json.dumps(stage, sort_keys=True), []).append(point)
    stages = []
    for points in groups.values():
        number = sum(plan.num_draws(point) for point in points)
        if number > 1:
            stages.append(Stage(tuple(points), number, _late(points[0].trial.job.strategy)))
    return tuple(stages)


def _late(strategy: Any) -> tuple[str, ...]:
    return tuple(f"strategy.{key}" for key in type(strategy).from_second_task)
