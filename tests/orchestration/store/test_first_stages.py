"""Trials of one stage in the store: one learns the first task, the others go on from there."""

import os
import signal

import pytest
from ray.util import placement_group_table

from lamina.orchestration.store import host_watch
from lamina.orchestration.store.shared_store import Boundary, SharedStore
from watched import RAY, Watched, matrix, matrix_alone, report_of

JOB = {"seed": 0, "strategy": {"name": "ewc"}}


@pytest.fixture(params=[False, True], ids=["alone", "under a scheduler"])
def scheduled(request):
    return request.param


@pytest.fixture
def store(tmp_path, scheduled):
    store = SharedStore(tmp_path / "store", "one", keep_boundaries=scheduled)
    yield store
    store.close()


def submit(store, *trials, stage="s"):
    for trial in trials:
        store.submit(trial, trial, {**JOB, "trial": trial}, stage=stage)


def learn(store, host, task, **parts):
    """`host` reports a task of what it is training."""
    (trial,) = [each for each in store.trials() if store.host(each) == host]
    content = {name: part.encode() for name, part in parts.items()}
    return store.report(trial, host, report_of(task), content)


def wanted_again(store, *trials):
    """Under a scheduler somebody asks for the second task."""
    for trial in trials:
        store.resume(trial)


def test_the_others_wait_while_one_learns_the_first_task(store):
    submit(store, "a", "b", "c")
    submit(store, "other", stage="t")
    assert store.claim("h0", "x").trial == "a"
    assert store.claim("h1", "x").trial == "other"
    assert store.claim("h2", "x") is None


def test_they_go_on_from_its_boundary_with_its_report(store):
    submit(store, "a", "b")
    store.claim("h0", "x")
    learn(store, "h0", 0, rest="zero")
    learn(store, "h0", 1, rest="one")
    assert store.reports("b") == [report_of(0)]
    wanted_again(store, "b")
    claim = store.claim("h1", "x")
    assert (claim.trial, store.last_boundary(claim.trial)) == ("b", Boundary("a", 0))
    assert store.read(store.at(store.last_boundary(claim.trial))) == {"rest": b"zero"}
    assert claim.mapping["trial"] == "b"


def test_one_that_is_submitted_later_joins_and_is_told_of(store):
    submit(store, "a")
    store.claim("h0", "x")
    learn(store, "h0", 0, rest="zero")
    learn(store, "h0", 1, rest="one")
    submit(store, "late")
    assert store.reports("late") == [report_of(0)]
    told = [event["trial"] for _, event in store.events(0) if event["event"] == "reported"]
    assert told == ["a", "a", "late"]
    assert store.read(store.at(store.last_boundary("late"))) == {"rest": b"zero"}


@pytest.mark.parametrize("end", ["fail", "stop", "die"])
def test_the_next_leads_when_the_first_comes_to_nothing(store, end):
    submit(store, "a", "b", "c")
    store.claim("h0", "x")
    assert store.claim("h1", "x") is None
    if end == "fail":
        store.fail("a", "it broke")
    elif end == "stop":
        store.stop("a")
    else:
        store.release("h0")
        store.stop("a")
    claim = store.claim("h1", "x")
    assert (claim.trial, store.last_boundary(claim.trial)) == ("b", None)
    assert store.claim("h2", "x") is None
    learn(store, "h1", 0, rest="zero")
    wanted_again(store, "c")
    assert store.last_boundary(store.claim("h2", "x").trial) == Boundary("b", 0)


def test_a_stopped_leader_that_still_reports_is_followed(store):
    submit(store, "a", "b")
    store.claim("h0", "x")
    store.stop("a")
    assert not store.report("a", "h0", report_of(0), {"rest": b"zero"})
    wanted_again(store, "b")
    assert store.last_boundary(store.claim("h1", "x").trial) == Boundary("a", 0)


def test_a_new_session_goes_on_sharing(store, scheduled):
    submit(store, "a", "b")
    store.claim("h0", "x")
    learn(store, "h0", 0, rest="zero")
    learn(store, "h0", 1, rest="one")
    folder = store._payloads._folder.parent
    store.close()
    store.__init__(folder, "two", keep_boundaries=scheduled)
    submit(store, "a", "b", "new")
    wanted_again(store, "b", "new")
    claims = [store.claim(host, "y") for host in ("h0", "h1", "h2")]
    assert {claim.trial: store.last_boundary(claim.trial) for claim in claims if claim} == {
        "a": Boundary("a", 1),
        "b": Boundary("a", 0),
        "new": Boundary("a", 0),
    }
    assert store.read(store.at(Boundary("a", 0))) == {"rest": b"zero"}


def test_what_a_fork_has_yet_to_start_from_outlives_the_sweep(store):
    submit(store, "a", "b")
    store.claim("h0", "x")
    learn(store, "h0", 0, rest="zero")
    learn(store, "h0", 1, rest="one")
    learn(store, "h0", 2, rest="two")
    store.tidy()
    assert store.read(store.at(Boundary("a", 0))) == {"rest": b"zero"}
    wanted_again(store, "b")
    store.claim("h1", "x")
    learn(store, "h1", 1, rest="b one")
    store.tidy()
    assert store.at(Boundary("a", 0)) == {}


def test_a_stream_of_one_task_leaves_nothing_to_share(store):
    submit(store, "a", "b")
    store.claim("h0", "x")
    store.report("a", "h0", report_of(0, num_tasks=1), {"rest": b""})
    assert store.reports("b") == []


@pytest.mark.ray
@RAY[1]
def test_a_shared_first_task_is_learned_once_and_a_host_that_is_stopped_changes_no_trial(
    ray_cluster, make_job, tmp_path, monkeypatch
):
    job = make_job(tmp_path / "out")
    job["training"] = {"epochs": 1, "batch_size": 16}
    job["sweep"] = {
        "variants": [{"strategy": {"name": "ewc"}}, {"strategy": {"name": "er"}}],
        "space": {
            "strategy.strength": {"grid_search": [0.0, 1e6]},
            "strategy.replay_size": {"grid_search": [2, 16]},
        },
    }
    # A host says that it is there every five seconds.
    monkeypatch.setattr(host_watch, "SILENT_SECONDS", 12.0)
    stopped = []

    def stop_the_first_host(event):
        """Once a shared task is learned: those that go on from it are trained on another."""
        if event["event"] == "host_ready" and event["host"] == "host-0":
            stopped.append(event["process"])
        if event["event"] == "reported" and event.get("host") == "host-0" and len(stopped) == 1:
            stopped.append(os.kill(stopped[0], signal.SIGSTOP))

    sweep = Watched(job, stop_the_first_host)
    assert len(stopped) > 1
    # The core of the host that was given up is free again.
    assert {each["state"] for each in placement_group_table().values()} <= {"REMOVED"}
    (lost,) = sweep.of("host_lost")
    assert (lost["host"], lost["error"][:24]) == ("host-0", "nothing heard of it for ")
    assert [row["status"] for row in sweep.rows] == ["finished"] * 4
    first = [each for each in sweep.of("reported") if each["report"]["task"] == 0]
    assert sorted(each["trial"][:3] for each in first if each["host"]) == ["er-", "ewc"]
    assert len(first) == 4
    for row in sweep.rows:
        assert matrix(row["reports"]) == matrix_alone(row["mapping"])
    assert len({str(matrix(row["reports"])) for row in sweep.rows}) == 4
