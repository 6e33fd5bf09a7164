"""The states of a trial and what each request does in them: one table, and nothing else decides.

    new --submit--> queued --claim--> running --finish--> finished
                     ^  ^               |
                     |  +--lose_host----+
                     |
                     +--submit, resume-- paused <--pause-- queued, running
                     +--submit, resume-- stopped <--stop-- queued, running, paused
                     +--resume---------- failed <--fail--- any that has not finished

`TrialStates` applies the table. A request that the table does not have for a state changes nothing,
so that every request may be repeated.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

State = Literal["new", "queued", "running", "paused", "finished", "failed", "stopped"]
"""`new` is the state of a trial that is being submitted; it is never seen outside of that."""

Request = Literal[
    "submit",
    "pause_again",
    "resume",
    "claim",
    "claim_again",
    "lose_host",
    "pause",
    "follow",
    "stop",
    "finish",
    "fail",
    "give_up",
    "restart",
]
"""What may be asked for:

- `submit`: somebody wants the trial trained.
- `pause_again`: a new session knows a trial of an earlier one, and nobody wants more of it yet.
- `resume`: somebody wants it trained, whatever ended it.
- `claim`: a host takes it out of the queue.
- `claim_again`: the host that was training it has died and come back.
- `lose_host`: the host that was training it is gone.
- `pause`: nobody needs more of it for now.
- `follow`: under a scheduler, it has got its first task from another trial of its stage.
- `stop`: nobody needs more of it.
- `finish`: its last task is learned and its adapters are handed over.
- `fail`: it raised an error, or took its host down too often.
- `give_up`: no host is left.
- `restart`: a new session opens the store.
"""


@dataclass(frozen=True)
class Transition:
    """The result of a request for a trial."""

    state: State
    """Its new state, which may be the old one."""
    event: str | None = None
    """The event for the tracker and the terminal; None: no event."""


_SUBMITTED = Transition("queued", "submitted")
_PAUSED = Transition("paused", "paused")
_STOPPED = Transition("stopped", "stopped")
_FINISHED = Transition("finished", "finished")
_FAILED = Transition("failed", "failed")
_INTERRUPTED = Transition("stopped")

TRANSITIONS: Mapping[Request, Mapping[State, Transition]] = {
    "submit": {
        "new": _SUBMITTED,
        "paused": _SUBMITTED,
        "stopped": _SUBMITTED,
        "finished": Transition("finished", "known"),
    },
    "pause_again": {"stopped": Transition("paused", "submitted")},
    "resume": {"paused": _SUBMITTED, "stopped": _SUBMITTED, "failed": _SUBMITTED},
    "claim": {"queued": Transition("running", "started")},
    "claim_again": {"running": Transition("running", "started")},
    "lose_host": {"running": Transition("queued")},
    "pause": {"queued": _PAUSED, "running": _PAUSED},
    "follow": {"queued": Transition("paused")},
    "stop": {"queued": _STOPPED, "running": _STOPPED, "paused": _STOPPED},
    "finish": dict.fromkeys(("queued", "running", "paused", "stopped"), _FINISHED),
    "fail": dict.fromkeys(("queued", "running", "paused", "stopped"), _FAILED),
    "give_up": dict.fromkeys(("queued", "running", "paused"), _FAILED),
    "restart": dict.fromkeys(("queued", "running", "paused", "stopped", "failed"), _INTERRUPTED),
}
"""Request x state -> transition."""


def transition(state: State, request: Request) -> Transition | None:
    """The transition of a trial in `state` on `request`; None: nothing changes."""
    return TRANSITIONS[request].get(state)


def can(state: State | None, request: Request) -> bool:
    """Whether `request` does something to a trial in `state`; None is one that is not known."""
    return state in TRANSITIONS[request]
