"""The store without Ray: what it remembers, and that saying a thing twice counts once."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lamina.orchestration.payloads import Payloads
from lamina.orchestration.store.shared_store import MOST_DEATHS, Boundary, SharedStore
from lamina.registry import InputError
from watched import report_of

JOB = {"seed": 0, "strategy": {"name": "er"}}


@pytest.fixture
def store(tmp_path):
    store = SharedStore(tmp_path / "store", session="one")
    yield store
    store.close()


def reopened(store, session="one", **options):
    folder = store._payloads._folder.parent
    store.close()
    store.__init__(folder, session, **options)
    return store


def test_trials_are_claimed_in_the_order_in_which_they_were_submitted(store):
    for trial in ("c", "a", "b"):
        store.submit(trial, trial, JOB)
    claims = [store.claim(host, "first") for host in ("h0", "h1", "h2", "h3")]
    assert [claim and claim.trial for claim in claims] == ["c", "a", "b", None]
    assert claims[0].mapping == JOB
    assert store.last_boundary(claims[0].trial) is None


def test_a_claim_whose_answer_was_lost_gives_the_same_trial_again(store):
    store.submit("a", "a", JOB)
    store.submit("b", "b", JOB)
    assert store.claim("h0", "first") == store.claim("h0", "first")
    assert store.claim("h1", "first").trial == "b"


def test_a_host_that_comes_back_goes_on_with_its_trial_from_its_last_boundary(store):
    store.submit("a", "a", JOB)
    store.claim("h0", "first")
    store.report("a", "h0", report_of(0), {"memory": b"rows", "rest": b"0"})
    store.report("a", "h0", report_of(1), {"memory": b"more rows", "rest": b"1"})
    claim = store.claim("h0", "second")
    assert (claim.trial, store.last_boundary(claim.trial)) == ("a", Boundary("a", 1))
    assert store.read(store.at(store.last_boundary(claim.trial))) == {
        "memory": b"more rows",
        "rest": b"1",
    }


def test_a_trial_that_takes_its_host_down_again_and_again_fails_and_the_next_has_its_turn(store):
    store.submit("killer", "killer", JOB)
    store.submit("b", "b", JOB)
    for death in range(MOST_DEATHS):
        assert store.claim("h0", f"incarnation {death}").trial == "killer"
    assert store.claim("h0", "last").trial == "b"
    assert store.state("killer") == "failed"
    assert "died 3 times" in store.error("killer")


def test_a_task_that_is_learned_in_between_makes_deaths_count_anew(store):
    store.submit("a", "a", JOB)
    for task in range(3):
        for death in range(MOST_DEATHS - 1):
            assert store.claim("h0", f"{task} {death}").trial == "a"
        store.report("a", "h0", report_of(task), {"rest": b""})


def test_what_a_lost_host_was_training_is_claimed_by_another(store):
    store.submit("a", "a", JOB)
    store.claim("h0", "first")
    store.report("a", "h0", report_of(0), {"rest": b"0"})
    store.release("h0")
    claim = store.claim("h1", "first")
    assert (claim.trial, store.last_boundary(claim.trial)) == ("a", Boundary("a", 0))
    assert not store.report("a", "h0", report_of(1), {"rest": b"1"}), "h0 is told to leave it"
    assert store.report("a", "h1", report_of(1), {"rest": b"1"})


def test_a_report_that_is_delivered_twice_counts_once(store):
    store.submit("a", "a", JOB)
    store.claim("h0", "first")
    for _ in range(2):
        assert store.report("a", "h0", report_of(0), {"rest": b"0"})
    assert store.reports("a") == [report_of(0)]
    assert [event["event"] for _, event in store.events(0)].count("reported") == 1


def test_a_stopped_trial_ends_at_its_boundary_and_can_be_taken_up_again(store):
    store.submit("a", "a", JOB)
    store.claim("h0", "first")
    store.stop("a")
    assert not store.report("a", "h0", report_of(0), {"rest": b"0"})
    assert store.claim("h0", "first") is None
    store.submit("a", "a", JOB)
    assert store.last_boundary(store.claim("h0", "first").trial) == Boundary("a", 0)


def test_everything_is_there_again_after_the_store_was_closed_and_opened(store):
    store.submit("a", "a name", JOB)
    store.submit("b", "b", JOB)
    store.claim("h0", "first")
    store.report("a", "h0", report_of(0), {"memory": b"rows"})
    store.fail("b", "it broke")
    events = store.events(0)
    store = reopened(store)
    assert store.last_boundary(store.claim("h0", "first").trial) == Boundary("a", 0)
    assert store.read(store.at(Boundary("a", 0))) == {"memory": b"rows"}
    assert (store.state("b"), store.error("b")) == ("failed", "it broke")
    assert (store.name("a"), store.mapping("a")) == ("a name", JOB)
    assert store.events(0) == events


def test_only_what_an_earlier_session_finished_is_said_to_be_known(store):
    def times_known():
        return [event["event"] for _, event in store.events(0)].count("known")

    store.submit("early", "early", JOB)
    store.claim("h0", "x")
    store.finish("early")
    store.submit("early", "early", JOB)
    assert times_known() == 0
    store = reopened(store, session="two")
    for _ in range(2):
        store.submit("early", "early", JOB)
    assert times_known() == 1


def test_a_new_session_keeps_what_is_finished_and_takes_up_the_rest_when_asked(store):
    for trial in ("done", "half", "failed", "never asked again"):
        store.submit(trial, trial, JOB)
    store.claim("h0", "x")
    for task in range(3):
        store.report("done", "h0", report_of(task), {"rest": b""})
    store.finish("done")
    store.claim("h0", "x")
    store.report("half", "h0", report_of(0), {"rest": b""})
    store.fail("failed", "out of memory")
    store = reopened(store, session="two")
    for trial in ("done", "half", "failed"):
        store.submit(trial, trial, JOB)
    claims = [store.claim(host, "y") for host in ("h0", "h1", "h2")]
    assert [claim and claim.trial for claim in claims] == ["half", "failed", None]
    assert store.last_boundary(claims[0].trial) == Boundary("half", 0)
    assert len(store.reports("done")) == 3


def test_a_trial_that_was_learned_but_not_handed_over_is_still_claimed_when_the_sweep_ends(store):
    for trial in ("fresh", "learned"):
        store.submit(trial, trial, JOB)
        store.claim(f"h-{trial}", "x")
    store.report("learned", "h-learned", report_of(2), {"rest": b""})
    store.release("h-learned")
    store.release("h-fresh")
    assert store.claim("h2", "x", only_trained=True).trial == "learned"
    store.finish("learned")
    assert store.claim("h2", "x", only_trained=True) is None


def test_a_fork_goes_on_from_the_other_trials_boundary_and_has_its_past(store):
    store = reopened(store, keep_boundaries=True)
    store.submit("a", "a", JOB)
    store.claim("h0", "x")
    for task in range(2):
        store.report("a", "h0", report_of(task), {"rest": str(task).encode()})
    store.submit("fork", "fork", {**JOB, "seed": 1}, fork=Boundary("a", 0))
    claim = store.claim("h1", "x")
    assert store.last_boundary(claim.trial) == Boundary("a", 0)
    assert store.read(store.at(store.last_boundary(claim.trial))) == {"rest": b"0"}
    store.report("fork", "h1", {**report_of(1), "task_name": "other"}, {"rest": b"fork"})
    assert [each["task_name"] for each in store.reports("fork")] == ["t0", "other"]
    assert store.report_of("fork", 0) == report_of(0)


def test_only_the_last_two_checkpoints_of_a_trial_are_kept_and_shared_bytes_once(store):
    files = lambda: sorted(store._payloads._folder.glob("*.safetensors"))  # noqa: E731
    for trial in ("a", "b"):
        store.submit(trial, trial, JOB)
        store.claim(trial, "x")
        for task in range(3):
            parts = {"rest": f"{trial}{task}".encode(), "shared": b"the same"}
            store.report(trial, trial, report_of(task), parts)
    assert len(files()) == 5
    assert store.read(store.at(Boundary("a", 2))) == {"rest": b"a2", "shared": b"the same"}
    assert store.at(Boundary("a", 0)) == {}


def test_under_a_scheduler_every_checkpoint_is_kept_until_the_sweep_is_over(store):
    store = reopened(store, keep_boundaries=True)
    store.submit("a", "a", JOB)
    store.claim("h0", "x")
    for task in range(3):
        store.report("a", "h0", report_of(task), {"rest": str(task).encode()})
    assert store.read(store.at(Boundary("a", 0))) == {"rest": b"0"}
    store.tidy()
    assert store.at(Boundary("a", 0)) == {}
    assert store.read(store.at(Boundary("a", 2))) == {"rest": b"2"}


def test_a_second_store_on_the_same_folder_is_refused(store, tmp_path, monkeypatch):
    monkeypatch.setattr("lamina.orchestration.store.shared_store._LOCK_SECONDS", 0.1)
    with pytest.raises(InputError, match=r"output_dir: .* is in use by another sweep"):
        SharedStore(tmp_path / "store", session="two")


KILLED = """
import os, signal, sys
from pathlib import Path
from lamina.orchestration.store.shared_store import SharedStore
store = SharedStore(Path(sys.argv[1]), "one")
store.submit("a", "a", {})
store.claim("h0", "x")
for task in range(1000):
    report = {"task": task, "num_tasks": 1000, "done": False}
    store.report("a", "h0", report, {"rest": b"%d" % task * 1000})
    print(task, flush=True)
"""


def test_kill_9_loses_nothing_that_was_answered(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path("platform").resolve())}
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    for line in process.stdout:
        if int(line) == 20:
            break
    process.send_signal(signal.SIGKILL)
    answered = max([20, *map(int, process.stdout.read().split())])
    process.stdout.close()
    process.wait()
    store = SharedStore(tmp_path, session="one")
    last = store.last_boundary(store.claim("h0", "y").trial)
    assert last.task >= answered
    assert [each["task"] for each in store.reports("a")] == list(range(last.task + 1))
    assert store.read(store.at(last)) == {"rest": b"%d" % last.task * 1000}
    store.close()


def test_half_written_payloads_are_cleared_away(tmp_path):
    (tmp_path / "abc.part").write_bytes(b"half")
    payloads = Payloads(tmp_path)
    digest = payloads.put(b"whole")
    assert [path.name for path in tmp_path.iterdir()] == [f"{digest}.safetensors"]
    assert payloads.get(digest) == b"whole"


def test_a_host_may_hold_its_share_of_the_trials(tmp_path):
    store = SharedStore(tmp_path, "s")
    for trial in "abcde":
        store.submit(trial, trial, {})
    held = []
    while claim := store.claim("h0", "x", held=held, num_hosts=2):
        held.append(claim.trial)
    assert held == ["a", "b", "c"]
    assert store.claim("h1", "x", num_hosts=2).trial == "d"


def test_a_host_that_held_several_trials_gets_each_again_when_it_comes_back(tmp_path):
    store = SharedStore(tmp_path, "s")
    for trial in "ab":
        store.submit(trial, trial, {})
    store.claim("h0", "first")
    store.claim("h0", "first", held=["a"])
    again = store.claim("h0", "second")
    assert (again.trial, again.deaths) == ("a", 1)
    other = store.claim("h0", "second", held=["a"])
    assert (other.trial, other.deaths) == ("b", 1)
