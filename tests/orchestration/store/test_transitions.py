"""The table of states, and that the store does what it says."""

from pathlib import Path
from typing import get_args

import pytest

import lamina.orchestration.store as package
from lamina.orchestration.store.records import Boundary
from lamina.orchestration.store.shared_store import SharedStore
from lamina.orchestration.store.transitions import TRANSITIONS, Request, State, transition
from watched import report_of

JOB = {"seed": 0, "strategy": {"name": "er"}}
STATES = [state for state in get_args(State) if state != "new"]

BRING_TO = {
    "queued": lambda store: None,
    "running": lambda store: store.claim("h0", "x"),
    "paused": lambda store: store.pause("a"),
    "finished": lambda store: store.finish("a"),
    "failed": lambda store: store.fail("a", "it broke"),
    "stopped": lambda store: store.stop("a"),
}
REQUESTS = {
    "submit": lambda store: store.submit("a", "a", JOB),
    "pause_again": lambda store: store.pause_again("a"),
    "resume": lambda store: store.resume("a"),
    "claim": lambda store: store.claim("h1", "y"),
    "claim_again": lambda store: store.claim("h0", "y"),
    "lose_host": lambda store: store.release("h0"),
    "pause": lambda store: store.pause("a"),
    "stop": lambda store: store.stop("a"),
    "finish": lambda store: store.finish("a"),
    "fail": lambda store: store.fail("a", "it broke"),
    "give_up": lambda store: store.fail_all("no host is left"),
}
"""How each request is made; `follow` and `restart` have tests of their own."""


@pytest.fixture
def store(tmp_path):
    store = SharedStore(tmp_path / "store", "one")
    store.submit("a", "a", JOB)
    yield store
    store.close()


def events_of(store, after=0):
    return [event["event"] for _, event in store.events(after)]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("request_", REQUESTS)
def test_a_request_does_what_the_table_says_and_nothing_where_it_says_nothing(
    store, state, request_
):
    BRING_TO[state](store)
    before = store.ledger.last_event()
    asked = REQUESTS[request_]
    if request_ == "claim_again" and state == "queued":
        # A host that did not train it claims it for the first time.
        request_ = "claim"
    asked(store)
    expected = transition(state, request_)
    if request_ == "submit" and state == "finished":
        # This session has just said so.
        assert (store.state("a"), events_of(store, before)) == ("finished", [])
    elif expected is None:
        assert (store.state("a"), events_of(store, before)) == (state, [])
    else:
        events = [] if expected.event is None else [expected.event]
        assert (store.state("a"), events_of(store, before)) == (expected.state, events)


@pytest.mark.parametrize("state", STATES)
def test_a_new_session_stops_what_has_not_finished_and_says_nothing(store, tmp_path, state):
    BRING_TO[state](store)
    before = store.ledger.last_event()
    store.close()
    store.__init__(tmp_path / "store", "two")
    expected = transition(state, "restart")
    assert store.state("a") == (expected.state if expected else state)
    assert events_of(store, before) == []
    assert store.host("a") is None


@pytest.mark.parametrize("scheduled", [False, True])
def test_who_gets_a_first_task_from_another_waits_under_a_scheduler_only(tmp_path, scheduled):
    store = SharedStore(tmp_path / "store", "one", keep_boundaries=scheduled)
    for trial in ("a", "b"):
        store.submit(trial, trial, JOB, stage="s")
    store.claim("h0", "x")
    store.report("a", "h0", report_of(0), {"rest": b""})
    assert store.fork_of("b") == Boundary("a", 0)
    assert store.state("b") == (transition("queued", "follow").state if scheduled else "queued")
    store.close()


def test_every_request_is_in_the_table_and_every_state_is_reached():
    assert set(TRANSITIONS) == set(get_args(Request))
    reached = {each.state for row in TRANSITIONS.values() for each in row.values()}
    assert reached == set(STATES)


def test_one_place_sets_states():
    files = Path(package.__file__).parent.glob("*.py")
    setting = [path.name for path in files for _ in range(path.read_text().count("SET state"))]
    assert setting == ["trial_states.py"]


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("state", STATES)
def test_every_change_of_a_state_wakes_whoever_waits(store, state, request_):
    BRING_TO[state](store)
    woken = []
    store.ledger.on_change = lambda: woken.append(store.state("a"))
    REQUESTS[request_](store)
    if store.state("a") != state:
        assert woken == [store.state("a")]


def test_a_trial_that_fails_within_a_claim_wakes_whoever_waits(store):
    for death in range(3):
        store.claim("h0", f"incarnation {death}")
    woken = []
    store.ledger.on_change = lambda: woken.append(store.state("a"))
    assert store.claim("h0", "last") is None
    assert woken == ["failed"]
