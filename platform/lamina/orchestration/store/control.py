"""What a person may ask of a sweep from another terminal: pause, resume, stop, fork.

What was asked is on disk, so it holds when the sweep is killed and started again. Trials that a
person has forked or brought back live outside of Ray Tune, which never hears of them.
"""

import json
from collections.abc import Mapping
from typing import Any, Literal

from lamina.digests import trial_id
from lamina.orchestration.store.shared_store import Boundary, Report, SharedStore

Action = Literal["stop", "pause", "resume"]
_HOLD = "hold/"
_WANTED = "wanted/"


def hold_of(store: SharedStore, trial: str) -> str | None:
    """`stop` or `pause` where a person has asked for that, and it still holds."""
    return store.fact(_HOLD + trial)


def held(store: SharedStore, how: str) -> list[str]:
    """The trials that a person has paused, or stopped."""
    return [trial for trial, hold in store.facts(_HOLD).items() if hold == how]


def is_wanted(store: SharedStore, trial: str) -> bool:
    """Whether a person wants `trial` trained, whoever else does."""
    return store.fact(_WANTED + trial) is not None


def open_wishes(store: SharedStore) -> list[str]:
    """The trials that a person wants trained and that have not ended; a paused one has not."""
    return [
        trial
        for trial in store.facts(_WANTED)
        if store.state(trial) not in ("finished", "failed") and hold_of(store, trial) != "stop"
    ]


def take_up(store: SharedStore) -> None:
    """Queue what a person asked for in an earlier session and did not get."""
    for trial in store.facts(_WANTED):
        if hold_of(store, trial) is None:
            if store.state(trial) == "stopped":
                store.resume(trial)
        else:
            recall(store, trial)


def recall(store: SharedStore, trial: str) -> None:
    """A new session meets a trial that a person has paused or stopped."""
    store.recall(trial)
    if hold_of(store, trial) == "stop":
        store.stop(trial)


def act(store: SharedStore, action: Action, trial: str) -> str | None:
    """Do as a person asks with a known trial. Returns why not, if it cannot be done."""
    state, hold = store.state(trial), hold_of(store, trial)
    if state == "finished":
        return f"{store.name(trial)} has finished"
    if action == "resume":
        return _resume(store, trial)
    if action == hold:
        return None
    if state in ("failed", "stopped"):
        return f"{store.name(trial)} has {state} already"
    store.set_fact(_HOLD + trial, action)
    if action == "stop":
        store.stop(trial)
    else:
        store.pause(trial)
    return None


def _resume(store: SharedStore, trial: str) -> str | None:
    """Go on with a trial that was paused or stopped, or try one again that failed."""
    state, hold = store.state(trial), hold_of(store, trial)
    if state in ("queued", "running"):
        return None
    if state == "paused" and hold is None:
        return f"{store.name(trial)} waits for the sweep's scheduler"
    store.forget_fact(_HOLD + trial)
    if state in ("stopped", "failed"):
        # Nobody but this person waits for it any more.
        _want(store, trial, {})
    if is_wanted(store, trial):
        store.resume(trial)
    return None


def fork(
    store: SharedStore, parent: str, name: str, mapping: Mapping[str, Any], settings: Any
) -> tuple[str | None, str | None]:
    """Queue a trial that goes on from the last boundary of `parent` as the job `mapping`.

    Returns its id, or None and why not.
    """
    last = store.reports(parent)[-1:]
    if not last:
        return None, f"{store.name(parent)} has learned no task yet, and a fork starts after one"
    if last[0]["done"]:
        return None, f"{store.name(parent)} has learned its last task, so a fork has none to learn"
    boundary = store.last_boundary(parent)
    assert boundary is not None, "where there is a report there is a boundary"
    trial = trial_id(mapping, boundary)
    _want(store, trial, settings)
    store.submit(trial, f"{name}-after{boundary.task + 1}", mapping, boundary)
    return trial, None


def ended(store: SharedStore, trial: str) -> Report:
    """What is said to whoever waits for a trial that a person has stopped."""
    last = store.reports(trial)[-1:] or [{"metrics": {}, "num_tasks": 0}]
    return {**last[0], "done": True, "stopped": True}


def results(store: SharedStore) -> list[dict[str, Any]]:
    """What is known of every trial ever submitted: `trial`, `name`, `mapping`, `status`, `error`,
    `reports`, `host`; `hold`, what a person has asked for; `fork`, where it was forked; and the
    `settings` of a trial that a person has forked."""
    wanted = store.facts(_WANTED)
    rows = []
    for trial in store.trials():
        boundary = store.fork_of(trial)
        settings = json.loads(wanted.get(trial, "{}"))
        rows.append(
            {
                "trial": trial,
                "name": store.name(trial),
                "mapping": store.mapping(trial),
                "status": store.state(trial),
                "error": store.error(trial),
                "reports": store.reports(trial),
                "host": store.host(trial),
                "hold": hold_of(store, trial),
                "fork": _said(boundary) if boundary and settings else None,
                "settings": settings or None,
            }
        )
    return rows


def _said(boundary: Boundary) -> dict[str, Any]:
    return {"trial": boundary.trial, "task": boundary.task}


def _want(store: SharedStore, trial: str, settings: Mapping[str, Any]) -> None:
    if not is_wanted(store, trial):
        store.set_fact(_WANTED + trial, json.dumps(settings))
