"""What a run is, in two lines of Markdown that a person reads beside its numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from lamina.tracking.data import DataDocument

_MOST_TASKS = 40
"""Names of so many tasks; the artifact classes.json has all."""


def of_sweep(name: str, data: Sequence[DataDocument]) -> str:
    """A sweep over these streams."""
    streams = ", ".join(f"{each['name']} ({each['scenario']}, {_size(each)})" for each in data)
    first = f"Sweep **{name}**{f' on {streams}' if streams else ''}: its child runs are the trials."
    return "\n\n".join([first, *(_tasks(data[0]) if data else [])])


def of_trial(job: Mapping[str, Any], data: DataDocument | None) -> str:
    """A trial of a job, on this stream where it is known."""
    adapter = (job.get("adapter") or {}).get("kind")
    said = [f"Strategy **{job['strategy']['name']}**"]
    said += [f"adapter {adapter}"] if adapter else []
    if job.get("memory"):
        said.append(f"memory of {job['memory']['size']} ({job['memory']['policy']})")
    where = f"{job['stream']['name']} ({job['scenario']['kind']})"
    first = f"{', '.join(said)}, on {where}, backbone {job['backbone']['name']}, seed "
    return "\n\n".join([f"{first}{job.get('seed', 0)}.", *(_tasks(data) if data else [])])


def _size(data: DataDocument) -> str:
    rows = sum(sum(each["rows"].values()) for each in data["tasks"])
    return f"{len(data['tasks'])} tasks, {rows:,} rows"


def _tasks(data: DataDocument) -> list[str]:
    named = [f"{index:02d} {each['name']}" for index, each in enumerate(data["tasks"])]
    more = [f"and {len(named) - _MOST_TASKS} more"] if len(named) > _MOST_TASKS else []
    names = ", ".join([*named[:_MOST_TASKS], *more])
    return [f"Tasks in order, as `..._task_00` counts them: {names}."]
