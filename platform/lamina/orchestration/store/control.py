"""Requests of a person to a sweep from another terminal: pause, resume, stop, fork.

A request is on disk, so it holds when the sweep is killed and started again. Trials that a person
has forked or brought back live outside of Ray Tune, which never hears of them.
"""

import json
from collections.abc import Mapping
from typing import Any, Literal

from lamina.digests import trial_id
from lamina.orchestration.store.records import Boundary, Report
from lamina.orchestration.store.shared_store import SharedStore
from lamina.orchestration.store.transitions import can

Action = Literal["stop", "pause", "resume"]


def is_wanted(store: SharedStore, trial: str) -> bool:
    """Whether a person wants `trial` trained, whoever else does."""
    return store.settings(trial) is not None


def open_wishes(store: SharedStore) -> list[str]:
    """The trials that a person wants trained and that have not ended; a paused one has not."""
    return [
        trial
        for trial in store.wanted()
        if can(store.state(trial), "finish") and store.hold(trial) != "stop"
    ]


def take_up(store: SharedStore) -> None:
    """Queue what a person asked for in an earlier session and did not get."""
    with store.ledger.transaction():
        for trial in store.wanted():
            if store.hold(trial) is not None:
                pause_again(store, trial)
            elif store.state(trial) == "stopped":
                store.resume(trial)


def pause_again(store: SharedStore, trial: str) -> None:
    """A new session meets a trial that a person has paused or stopped."""
    with store.ledger.transaction():
        store.pause_again(trial)
        if store.hold(trial) == "stop":
            store.stop(trial)


def act(store: SharedStore, action: Action, trial: str) -> str | None:
    """Do as a person asks with a known trial. Returns why not, if it cannot be done."""
    state, hold = store.state(trial), store.hold(trial)
    if state == "finished":
        return f"{store.name(trial)} has finished"
    if action == "resume":
        return _resume(store, trial)
    if action == hold:
        return None
    last = store.last_report(trial)
    if last is not None and last["done"]:
        return f"{store.name(trial)} has learned its last task"
    if not can(state, "stop"):
        return f"{store.name(trial)} has {state} already"
    with store.ledger.transaction():
        store.mark(trial, hold=action)
        if action == "stop":
            store.stop(trial)
        else:
            store.pause(trial)
    return None


def _resume(store: SharedStore, trial: str) -> str | None:
    """Go on with a trial that was paused or stopped, or try one again that failed."""
    state = store.state(trial)
    if not can(state, "resume"):
        return None
    if state == "paused" and store.hold(trial) is None:
        return f"{store.name(trial)} waits for the sweep's scheduler"
    with store.ledger.transaction():
        store.mark(trial, hold=None)
        if state != "paused":
            # Nobody but this person waits for it any more.
            _want(store, trial, {})
        if is_wanted(store, trial):
            store.resume(trial)
    return None


def fork(
    store: SharedStore,
    parent: str,
    name: str,
    mapping: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> tuple[str | None, str | None]:
    """Queue a trial that goes on from the last boundary of `parent` as the job `mapping`. Its
    settings also say where it comes from: only here is it known which boundary is the last.

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
    with store.ledger.transaction():
        store.submit(trial, f"{name}-after{boundary.task + 1}", mapping, boundary)
        origin = {"fork_of": parent, "after_tasks": boundary.task + 1}
        _want(store, trial, {**settings, **origin})
    return trial, None


def last_word(store: SharedStore, trial: str) -> Report:
    """The last report of a trial that a person has stopped, marked as the last one, for those that
    wait for the trial."""
    last = store.reports(trial)[-1:] or [{"metrics": {}, "num_tasks": 0}]
    return {**last[0], "done": True, "stopped": True}


def results(store: SharedStore) -> list[dict[str, Any]]:
    """The results of every trial ever submitted: `trial`, `name`, `mapping`, `status`, `error`,
    `reports`, `host`; `hold`, what a person has asked for; `fork`, where it was forked; and the
    `settings` of a trial that a person has forked."""
    rows = []
    for trial in store.trials():
        boundary, settings = store.fork_of(trial), store.settings(trial)
        rows.append(
            {
                "trial": trial,
                "name": store.name(trial),
                "mapping": store.mapping(trial),
                "status": store.state(trial),
                "error": store.error(trial),
                "reports": store.reports(trial),
                "host": store.host(trial),
                "hold": store.hold(trial),
                "fork": _plain(boundary) if boundary and settings else None,
                "settings": settings or None,
            }
        )
    return rows


def _plain(boundary: Boundary) -> dict[str, Any]:
    return {"trial": boundary.trial, "task": boundary.task}


def _want(store: SharedStore, trial: str, settings: Mapping[str, Any]) -> None:
    if not is_wanted(store, trial):
        store.mark(trial, settings=json.dumps(settings))
