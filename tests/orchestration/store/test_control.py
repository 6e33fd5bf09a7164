"""What a person may ask of a sweep: of its store, and from another terminal of one that runs."""

import json
import os
import queue
import subprocess
import sys
import threading

import pytest
import torch
from click.testing import CliRunner

from lamina.cli import main
from lamina.config import HostSettings
from lamina.orchestration.hosts.resident_backbones import ResidentBackbones
from lamina.orchestration.store import control
from lamina.orchestration.store.shared_store import Boundary, SharedStore
from lamina.orchestration.sweep.terminal import read_ledger, store_of
from lamina.training.checkpoint import pack, unpack
from watched import RAY, Watched, matrix, report_of

JOB = {"seed": 0, "strategy": {"name": "er"}}


@pytest.fixture
def store(tmp_path):
    """A trial that has learned two of its three tasks on a host, and one in the queue."""
    store = SharedStore(tmp_path / "store", "one")
    for trial in ("half", "queued"):
        store.submit(trial, f"{trial} name", JOB)
    store.claim("h0", "x")
    for task in range(2):
        store.report("half", "h0", report_of(task), {"rest": str(task).encode()})
    yield store
    store.close()


def reopened(store):
    folder = store._payloads._folder.parent
    store.close()
    store.__init__(folder, "two")
    control.take_up(store)


def test_a_paused_trial_leaves_its_host_and_is_claimed_again_when_it_is_resumed(store):
    assert control.act(store, "pause", "half") is None
    assert not store.is_running("half", "h0")
    assert store.claim("h0", "x").trial == "queued"
    store.resume("half")
    assert store.last_boundary(store.claim("h1", "x").trial) == Boundary("half", 1)


def test_what_was_asked_holds_in_the_next_session(store):
    control.act(store, "pause", "half")
    control.act(store, "stop", "queued")
    reopened(store)
    for trial in ("half", "queued"):
        control.pause_again(store, trial)
    assert (store.state("half"), store.state("queued")) == ("paused", "stopped")
    assert (store.held("pause"), store.held("stop")) == (["half"], ["queued"])


def test_a_trial_that_was_stopped_or_failed_is_brought_back_and_waited_for(store):
    control.act(store, "stop", "half")
    assert control.open_wishes(store) == []
    assert control.act(store, "resume", "half") is None
    assert control.open_wishes(store) == ["half"]
    store.fail("queued", "it broke")
    assert control.act(store, "resume", "queued") is None
    assert [store.claim(host, "x").trial for host in ("h1", "h2")] == ["half", "queued"]
    store.finish("half")
    assert control.open_wishes(store) == ["queued"]


def test_what_cannot_be_asked_is_refused_with_the_reason(store):
    store.fail("queued", "it broke")
    assert control.act(store, "pause", "queued") == "queued name has failed already"
    store.pause("half")
    assert control.act(store, "resume", "half") == "half name waits for the sweep's scheduler"
    assert control.fork(store, "queued", "f", JOB, {})[1].startswith("queued name has learned no")
    store.report("half", "h0", report_of(2), {"rest": b""})
    assert control.fork(store, "half", "f", JOB, {})[1].startswith("half name has learned its last")
    assert control.act(store, "pause", "half") == "half name has learned its last task"
    store.finish("half")
    assert control.act(store, "stop", "half") == "half name has finished"


def test_a_fork_starts_at_the_last_boundary_which_stays_for_it(store):
    trial, refusal = control.fork(store, "half", "f", {**JOB, "seed": 1}, {"seed": 1})
    assert refusal is None
    store.report("half", "h0", report_of(2), {"rest": b"2"})
    reopened(store)
    assert control.open_wishes(store) == [trial]
    (claim,) = [claim for host in ("h0", "h1") if (claim := store.claim(host, "y"))]
    assert (claim.trial, store.last_boundary(claim.trial)) == (trial, Boundary("half", 1))
    assert store.read(store.at(store.last_boundary(claim.trial))) == {"rest": b"1"}
    assert store.reports(trial) == [report_of(0), report_of(1)]
    (row,) = [row for row in control.results(store) if row["trial"] == trial]
    assert (row["name"], row["fork"]) == ("f-after2", {"trial": "half", "task": 1})
    assert row["settings"] == {"seed": 1, "fork_of": "half", "after_tasks": 2}


def test_a_fork_of_a_fork_that_has_learned_nothing_starts_where_that_would(store):
    fork, _ = control.fork(store, "half", "f", {**JOB, "seed": 1}, {"seed": 1})
    second, _ = control.fork(store, fork, "g", {**JOB, "seed": 2}, {"seed": 2})
    assert store.fork_of(second) == Boundary("half", 1)


def test_the_ledger_of_a_sweep_that_was_killed_is_read_and_not_touched(store, tmp_path):
    folder = tmp_path / "store"
    copy = tmp_path / "killed"
    (copy / "store").mkdir(parents=True)
    for path in folder.glob("ledger*"):
        (copy / "store" / path.name).write_bytes(path.read_bytes())
    before = {path.name: path.read_bytes() for path in (copy / "store").iterdir()}
    rows = read_ledger(copy)
    assert [(row["trial"], row["status"], len(row["reports"])) for row in rows] == [
        ("half", "running", 2),
        ("queued", "queued", 0),
    ]
    assert {path.name: path.read_bytes() for path in (copy / "store").iterdir()} == before
    assert read_ledger(tmp_path / "nowhere") is None


def test_a_run_whose_ray_is_gone_does_not_run(tmp_path):
    (tmp_path / "store").mkdir()
    said = {"session": "s", "address": "127.0.0.1:1", "auth_mode": None}
    (tmp_path / "store" / "live.json").write_text(json.dumps(said))
    with store_of(tmp_path) as found:
        assert found is None


def lamina(*words):
    """The command line, in this process: it is connected to the sweep's Ray already."""
    done = CliRunner().invoke(main, [str(word) for word in words])
    return done.exit_code, done.output


def lamina_elsewhere(*words):
    """The command line, in a process of its own, as in another terminal."""
    environment = {**os.environ, "PYTHONPATH": "platform"}
    command = [sys.executable, "-m", "lamina.cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return done.returncode, done.stdout + done.stderr


class Driven:
    """A sweep of a slow and a quick trial on one host that is driven: the slow one is paused after
    its first task, forked, brought back when all else is done, and stopped. What need not be quick
    is said in another process."""

    def __init__(self, job, folder):
        self.events = queue.Queue()
        self.folder = folder
        self.said = {}
        sweep = threading.Thread(target=self._run, args=(job,), daemon=True)
        sweep.start()
        slow = self.until("reported", prefix="er-")
        self.said["pause"] = lamina("pause", folder, slow)
        self.said["fork"] = lamina_elsewhere("fork", folder, slow, "training.epochs=1")
        self.said["refused"] = lamina("fork", folder, slow, "adapter.rank=8", "training.epoch=1")
        assert [code for code, _ in self.said.values()] == [0, 0, 2], self.said
        quick = self.until("finished")
        self.until("finished", but=quick)
        self.said["trials"] = lamina_elsewhere("trials", folder)
        self.said["resume"] = lamina("resume", folder, slow)
        assert self.said["resume"][0] == 0, self.said
        self.until("started")
        self.said["stop"] = lamina("stop", folder, slow)
        sweep.join()
        self.slow = slow
        self.said["after"] = lamina("trials", folder)
        self.said["too late"] = lamina("stop", folder, slow)

    def _run(self, job):
        self.rows = Watched(job, self.events.put, in_threads=True).rows

    def until(self, kind, prefix="", but=None):
        """Waits for an event; returns its trial."""
        while True:
            event = self.events.get(timeout=240)
            trial = event["trial"] or ""
            if event["event"] == kind and trial.startswith(prefix) and trial != but:
                return trial


@pytest.fixture(scope="module")
def driven(ray_cluster, make_job, tmp_path_factory):
    folder = tmp_path_factory.mktemp("driven") / "out"
    job = make_job(folder)
    job["hosts"] = {"count": 1}
    job["training"] = {"epochs": 30, "batch_size": 8}
    quick = {"strategy": {"name": "finetune"}, "training": {"epochs": 1}}
    job["sweep"] = {"variants": [{"strategy": {"name": "er"}}, quick], "max_concurrent": 1}
    return Driven(job, folder)


@pytest.mark.ray
@RAY[1]
@pytest.mark.timeout(600)
def test_a_running_sweep_is_driven_from_another_process(driven):
    codes = {name: code for name, (code, _) in driven.said.items()}
    assert codes == {**dict.fromkeys(driven.said, 0), "refused": 2, "too late": 2}, driven.said
    status = {row["name"]: (row["status"], len(row["reports"])) for row in driven.rows}
    fork = next(name for name in status if name.startswith("er-lora-epochs1-after"))
    assert status[fork] == ("finished", 3)
    assert status["finetune-lora"] == ("finished", 3)
    assert status["er-lora"][0] == "stopped"


@pytest.mark.ray
@RAY[1]
def test_what_is_wrong_with_a_fork_is_said_at_the_door(driven):
    _, said = driven.said["refused"]
    assert "adapter.rank: a fork cannot change it, as its tensors are in the checkpoint" in said
    assert "does not run" in driven.said["too late"][1]


@pytest.mark.ray
@RAY[1]
def test_trials_shows_what_is_paused_what_was_forked_and_what_is_left_of_a_run(driven):
    (line,) = [each for each in driven.said["trials"][1].splitlines() if " er-lora " in each]
    assert "paused" in line
    assert f"fork of {driven.slow} after" in driven.said["trials"][1]
    assert "does not run: 3 trials" in driven.said["after"][1]


@pytest.mark.ray
@RAY[1]
def test_a_fork_learns_what_it_would_alone_from_the_same_checkpoint(driven):
    (fork,) = [row for row in driven.rows if row["settings"].get("fork_of") == driven.slow]
    (slow,) = [row for row in driven.rows if row["trial"] == driven.slow]
    backbones = ResidentBackbones(torch.device("cpu"), HostSettings(), lambda _, build: build())
    before = backbones.learner(slow["mapping"])
    steps = before.learn()
    reports = [next(steps) for _ in range(fork["settings"]["after_tasks"])]
    alone = backbones.learner(fork["mapping"])
    alone.load_state_dict(unpack(pack(before.state_dict())))
    reports += list(alone.learn())
    assert matrix(fork["reports"]) == [(each.validation, each.test) for each in reports]


@pytest.mark.ray
@RAY[1]
def test_a_fork_is_tracked_as_a_trial_of_the_sweep_with_its_past(driven):
    (fork,) = [row for row in driven.rows if row["settings"].get("fork_of") == driven.slow]
    lines = (driven.folder / "events.jsonl").read_text().splitlines()
    told = [each for each in map(json.loads, lines) if each["trial"] == fork["trial"]]
    assert told[0]["event"] == "start_trial"
    assert [each["step"] for each in told if each["event"] == "log"] == [0, 1, 2]
    (finished,) = [each for each in told if each["event"] == "finish_trial"]
    assert finished["status"] == "finished"
