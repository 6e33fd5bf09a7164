"""Hosts that are silent, by a clock that the test turns."""

import pytest

from lamina.orchestration.store.host_watch import HostWatch
from lamina.orchestration.store.shared_store import MOST_DEATHS, Boundary, SharedStore
from watched import report_of

JOB = {"seed": 0, "strategy": {"name": "er"}}


class Clock:
    """Tells the time that it is set to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path):
    store = SharedStore(tmp_path / "store", "one")
    for trial in ("a", "b"):
        store.submit(trial, trial, JOB)
    yield store
    store.close()


@pytest.fixture
def watch(store, clock):
    """Two hosts with a trial each, of which the first has learned a task of its own."""
    watch = HostWatch(store, clock, deadline=30)
    for host in ("h0", "h1"):
        watch.hear(host)
        store.claim(host, "first")
    store.report("a", "h0", report_of(0), {"rest": b"0"})
    return watch


def pass_time(clock, watch, seconds):
    """The store looks every second."""
    for _ in range(seconds):
        clock.now += 1
        watch.lose_silent()


def lost(store):
    return [event["host"] for _, event in store.events(0) if event["event"] == "host_lost"]


def test_a_host_that_is_silent_past_the_deadline_gives_its_trial_up_to_another(store, watch, clock):
    pass_time(clock, watch, 20)
    watch.hear("h1")
    assert lost(store) == []
    pass_time(clock, watch, 11)
    assert (lost(store), watch.here()) == (["h0"], ["h1"])
    assert (store.state("a"), store.state("b")) == ("queued", "running")
    claim = store.claim("h1", "first", held=["b"])
    assert (claim.trial, store.last_boundary(claim.trial)) == ("a", Boundary("a", 0))
    assert claim.deaths == 1, "it is trained alone: it may be what took the host down"


def test_a_host_that_speaks_in_time_keeps_its_trial(store, watch, clock):
    for _ in range(20):
        pass_time(clock, watch, 29)
        for host in ("h0", "h1"):
            watch.hear(host)
    assert lost(store) == []
    assert store.host("a") == "h0"


def test_a_silence_is_said_once(store, watch, clock):
    pass_time(clock, watch, 100)
    assert sorted(lost(store)) == ["h0", "h1"]


def test_a_host_that_was_only_slow_leaves_the_trial_that_another_has_and_claims_anew(
    store, watch, clock
):
    pass_time(clock, watch, 31)
    watch.hear("h0")
    assert store.claim("h0", "first", held=["a"]).trial == "b", "not the one that it still trains"
    store.claim("h2", "x")
    assert not store.report("a", "h0", report_of(1), {"rest": b"1"})
    assert store.report_of("a", 1) == report_of(1), "what it learned counts all the same"
    assert store.host("a") == "h2"
    assert watch.here() == ["h0"]


def test_a_trial_that_silences_host_after_host_fails(store, watch, clock):
    store.finish("b")
    for number in range(MOST_DEATHS):
        assert store.state("a") in ("queued", "running")
        if number:
            watch.hear(f"other {number}")
            assert store.claim(f"other {number}", "x").trial == "a"
        pass_time(clock, watch, 31)
    assert store.state("a") == "failed"
    assert "died 3 times" in store.error("a")


def test_a_store_that_was_killed_knows_whom_to_wait_for_and_waits_its_full_time(
    store, watch, clock
):
    watch.leave("h1")
    pass_time(clock, watch, 20)
    again = HostWatch(store, clock, deadline=30)
    assert (again.here(), again.left()) == (["h0"], ["h1"])
    pass_time(clock, again, 29)
    assert lost(store) == []
    pass_time(clock, again, 2)
    assert lost(store) == ["h0"]


def test_no_host_is_lost_because_the_store_itself_was_held_up(store, watch, clock):
    clock.now += 100
    watch.lose_silent()
    pass_time(clock, watch, 30)
    assert lost(store) == []
    pass_time(clock, watch, 1)
    assert sorted(lost(store)) == ["h0", "h1"]


def test_a_host_that_waits_for_a_machine_is_missed_once_until_it_comes(store, watch):
    for _ in range(2):
        watch.miss("h2", "a machine")
        watch.miss("h0", "a machine")
    watch.hear("h2")
    watch.lose("h2", "gone")
    watch.miss("h2", "a machine")
    missing = [event["host"] for _, event in store.events(0) if event["event"] == "host_missing"]
    assert missing == ["h2", "h2"]
