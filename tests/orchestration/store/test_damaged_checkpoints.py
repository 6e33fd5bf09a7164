"""A checkpoint whose file is damaged: its trial goes on from the one before, and that is said."""

import pytest

from lamina.orchestration.store.shared_store import Boundary, SharedStore
from lamina.registry import InputError
from watched import report_of

JOB = {"seed": 0, "strategy": {"name": "er"}}


@pytest.fixture
def store(tmp_path):
    store = SharedStore(tmp_path / "store", session="one")
    store.submit("a", "a", JOB)
    store.claim("h0", "first")
    yield store
    store.close()


def learn(store, *tasks, trial="a"):
    for task in tasks:
        store.report(trial, "h0", report_of(task, 5), {"rest": f"{trial} {task}".encode()})


def damage(store, boundary, content=b"x"):
    (digest,) = store.ledger.column(
        "SELECT digest FROM payloads WHERE trial = ? AND task = ?", boundary.trial, boundary.task
    )
    path = store._payloads._folder / f"{digest}.safetensors"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    return path


def taken_up(store, trial="a"):
    """What a host that has claimed a trial is given, as the store's actor gives it."""
    while (digests := store.start(trial)) is not None:
        try:
            return store.read(digests)
        except InputError as damage:
            if not store.set_back(trial, str(damage)):
                store.fail(trial, str(damage))
                return None
    return {}


def set_back(store):
    return [event for _, event in store.events(0) if event["event"] == "set_back"]


@pytest.mark.parametrize("content", [b"x", b"", None])
def test_the_trial_goes_on_from_the_boundary_before(store, content):
    learn(store, 0, 1, 2)
    path = damage(store, Boundary("a", 2), content)
    store.claim("h0", "second")
    assert taken_up(store) == {"rest": b"a 1"}
    (event,) = set_back(store)
    assert event["task"] == 1
    assert str(path) in event["damage"]
    assert [each["task"] for each in store.reports("a")] == [0, 1]
    learn(store, 2)
    assert store.last_boundary(store.claim("h0", "third").trial) == Boundary("a", 2)
    assert store.read(store.at(Boundary("a", 2))) == {"rest": b"a 2"}


def test_where_that_is_damaged_too_the_trial_starts_again(store):
    learn(store, 0, 1, 2)
    damage(store, Boundary("a", 2))
    damage(store, Boundary("a", 1))
    assert store.claim("h0", "second").trial == "a"
    assert taken_up(store) == {}
    assert [event["task"] for event in set_back(store)] == [1, 0, -1]
    assert store.reports("a") == []


def test_no_more_than_two_checkpoints_of_a_trial_are_kept_and_one_of_a_finished_one(store):
    learn(store, 0, 1, 2, 3)
    files = lambda: len(list(store._payloads._folder.iterdir()))  # noqa: E731
    assert files() == 2
    learn(store, 4)
    store.finish("a")
    store.tidy()
    assert files() == 1
    assert store.read(store.at(Boundary("a", 4))) == {"rest": b"a 4"}


def test_a_trial_that_took_its_first_task_from_another_learns_it_itself(store):
    store.submit("b", "b", JOB, stage="s")
    store.claim("h0", "first", held=("a",))
    learn(store, 0, trial="b")
    store.submit("c", "c", JOB, stage="s")
    damage(store, Boundary("b", 0))
    claim = store.claim("h1", "first")
    assert claim.trial == "c"
    assert taken_up(store, "c") == {}
    assert set_back(store)[-1]["task"] == -1


def test_a_fork_of_another_trial_fails_in_one_line(store):
    learn(store, 0)
    store.submit("fork", "fork", JOB, fork=Boundary("a", 0))
    path = damage(store, Boundary("a", 0))
    assert store.claim("h1", "first").trial == "fork"
    assert taken_up(store, "fork") is None
    assert store.state("fork") == "failed"
    assert str(path) in store.error("fork")
    assert "\n" not in store.error("fork")


def keep_midway(store, task, content, host="h0"):
    digests = store.write({"rest": content})
    store.record_midway("a", host, task, digests)


def test_a_trial_that_is_kept_within_a_task_goes_on_there_and_one_such_place_is_kept(store):
    learn(store, 0, 1)
    for content in (b"step 10", b"step 20"):
        keep_midway(store, 2, content)
    assert store.read(store.midway("a")) == {"rest": b"step 20"}
    assert len(list(store._payloads._folder.iterdir())) == 3
    assert store.last_boundary(store.claim("h0", "second").trial) == Boundary("a", 1)
    learn(store, 2)
    assert store.midway("a") == {}
    assert len(list(store._payloads._folder.iterdir())) == 2


def test_where_the_place_within_a_task_is_damaged_the_trial_goes_on_from_the_task_before(store):
    learn(store, 0)
    keep_midway(store, 1, b"step 10")
    path = damage(store, Boundary("a", 1))
    store.claim("h0", "second")
    assert (taken_up(store), store.midway("a")) == ({"rest": b"a 0"}, {})
    (event,) = set_back(store)
    assert (event["task"], str(path) in event["damage"]) == (0, True)


def test_a_place_within_a_task_outlives_the_session(store, tmp_path):
    learn(store, 0)
    keep_midway(store, 1, b"step 10")
    store.tidy()
    store.close()
    store.__init__(tmp_path / "store", "two")
    store.submit("a", "a", JOB)
    assert store.last_boundary(store.claim("h0", "x").trial) == Boundary("a", 0)
    assert store.read(store.midway("a")) == {"rest": b"step 10"}


def test_a_host_that_has_lost_a_trial_or_comes_late_keeps_nothing_of_it(store):
    keep_midway(store, 0, b"another's", host="h1")
    assert store.midway("a") == {}
    learn(store, 0)
    keep_midway(store, 0, b"late")
    assert store.midway("a") == {}
