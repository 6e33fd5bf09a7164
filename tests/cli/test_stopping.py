"""Commands that are told to stop, that the disk lets down, and that meet another in their folder:
one line, and the same command goes on."""

import errno
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time

import pytest
import yaml
from click.testing import CliRunner

from lamina.cli import main
from lamina.files import alone_in
from lamina.training.learner import Learner
from watched import RAY, hosts_in_threads


@pytest.fixture
def federated(job):
    """The job with four clients, as a path."""
    mapping = yaml.safe_load(job.read_text())
    del mapping["sweep"]
    mapping["federation"] = {"clients": 4, "rounds": 2, "participation": 0.5, "bounds": False}
    job.write_text(yaml.safe_dump(mapping))
    return job


@pytest.fixture
def at_round(monkeypatch):
    """Has something done when a round of a federation is over."""

    progress = importlib.import_module("lamina.cli.federate")._Progress

    def set_up(number, act):
        shown = progress.__call__

        def show(self, event):
            shown(self, event)
            if event.get("kind") == "train" and event["round"] == number:
                act()

        monkeypatch.setattr(progress, "__call__", show)
        return monkeypatch.undo

    return set_up


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_federation_that_is_stopped_says_so_and_goes_on_to_the_same_bytes(
    lamina, federated, at_round, tmp_path, name
):
    whole = lamina("federate", federated, "--in-process", f"output_dir={tmp_path / 'whole'}")
    assert whole.exit_code == 0, whole.output
    number = getattr(signal, name)
    # In the background of a shell, tests are begun with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    undo = at_round(1, lambda: os.kill(os.getpid(), number))
    stopped = lamina("federate", federated, "--in-process")
    assert stopped.exit_code == 128 + number
    assert stopped.stderr == (
        f"stopped by {name}; the same command goes on from here, or `lamina resume OUTPUT_DIR`\n"
    )
    signal.signal(signal.SIGINT, before)
    undo()
    resumed = lamina("resume", tmp_path / "out")
    assert resumed.exit_code == 0, resumed.output
    assert "4 clients, 4 rounds, from round" in resumed.stdout
    assert "round 1/4" not in resumed.stdout
    for file in ("global.safetensors", "manifest.json"):
        found, expected = (tmp_path / folder / file for folder in ("out", "whole"))
        assert found.read_bytes() == expected.read_bytes()


@pytest.mark.parametrize("words", [[], ["sweep.checkpoint_steps=1"]])
@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_run_that_is_stopped_in_a_task_goes_on_to_the_same_bytes(
    lamina, job, tmp_path, monkeypatch, words, is_damaged
):
    words = ["training.epochs=2", "adapter.dropout=0.1", *words]
    whole = lamina("run", job, *words, f"output_dir={tmp_path / 'whole'}")
    assert whole.exit_code == 0, whole.output
    passed_over, begun = Learner._pass_over, []

    def stopped_in_the_second_task(learner, data, order, stepper, at, **other):
        if learner.next_task == 1 and at.epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return passed_over(learner, data, order, stepper, at, **other)

    def noted(learner, data, order, stepper, at, **other):
        begun.append((learner.next_task, at.num_batches > 0))
        return passed_over(learner, data, order, stepper, at, **other)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(Learner, "_pass_over", stopped_in_the_second_task)
    stopped = lamina("run", job, *words)
    signal.signal(signal.SIGINT, before)
    assert stopped.exit_code == 130
    assert stopped.stderr.endswith("goes on from here, or `lamina resume OUTPUT_DIR`\n")
    (folder,) = (tmp_path / "out" / "run").iterdir()
    for path in (folder / "store" / "payloads").iterdir() if is_damaged else ():
        path.write_bytes(b"")

    monkeypatch.setattr(Learner, "_pass_over", noted)
    resumed = lamina("resume", tmp_path / "out")
    assert resumed.exit_code == 0, resumed.output
    is_within = len(words) == 3
    if is_damaged:
        assert resumed.stdout.count("set back: ") == 1 + is_within
        assert begun == [(0, False), (0, False), (1, False), (1, False)]
    else:
        within = ", within the next" if is_within else ""
        assert f"goes on after 1 of 2 tasks{within}\n" in resumed.stdout
        # The first of its two epochs was kept, or was not.
        assert begun == [(1, is_within), (1, False)]
    for name in ("accuracy_matrix.json", "bundle/adapters/main/adapter_model.safetensors"):
        expected = tmp_path / "whole" / "run" / folder.name / name
        assert (folder / name).read_bytes() == expected.read_bytes()
    # Nothing is kept of what is done.
    assert not (folder / "store").exists()


def test_events_that_cannot_be_written_end_no_federation_and_are_said(
    lamina, federated, tmp_path, monkeypatch
):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lamina.tracking.json_lines.JsonLinesTracker._append", full)
    shown = lamina("federate", federated, "--in-process")
    assert shown.exit_code == 0, shown.output
    assert shown.stderr == "tracking: [Errno 28] No space left on device\n"
    assert (tmp_path / "out" / "global.safetensors").stat().st_size > 0


def test_a_full_disk_is_one_line_and_with_room_the_same_command_goes_on(
    lamina, federated, at_round, tmp_path
):
    """A limit on the size of files stands for the disk: the system then refuses to write."""
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    at_round(1, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, unlimited[1])))
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        # What is written of the output itself must not go to a file.
        full = CliRunner().invoke(main, ["federate", str(federated), "--in-process"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        signal.signal(signal.SIGXFSZ, before)
    assert full.exit_code == 1
    (line,) = full.stderr.splitlines()
    assert "the file may not grow so large" in line
    assert line.endswith("the same command goes on from here, or `lamina resume OUTPUT_DIR`")
    assert not list(tmp_path.rglob("*.part"))
    again = lamina("federate", federated, "--in-process")
    assert again.exit_code == 0, again.output
    assert "from round" in again.stdout


@pytest.mark.parametrize("command", ["federate", "sweep"])
def test_two_commands_in_one_folder_are_refused_at_once(lamina, federated, tmp_path, command):
    with alone_in(tmp_path / "out"):
        refused = lamina(command, federated)
    assert refused.exit_code == 2
    (line,) = refused.stderr.splitlines()
    assert line == (
        f"output_dir: '{tmp_path / 'out'}' is in use by another command (allowed: one at a time)"
    )


def test_the_job_of_a_folder_that_is_damaged_or_missing_is_one_line(lamina, tmp_path):
    def refused():
        found = lamina("resume", tmp_path)
        assert found.exit_code == 2
        (line,) = found.stderr.splitlines()
        return line

    assert "holds no results" in refused()
    for content, said in (
        ("", "is damaged"),
        ("[]", "is no record of this version"),
        (json.dumps({"format": 9}), "is no record of this version"),
    ):
        (tmp_path / "job.json").write_text(content)
        assert said in refused()


@pytest.mark.ray
@RAY[1]
@pytest.mark.timeout(600)
def test_a_sweep_that_is_stopped_leaves_no_process_and_goes_on(lamina, ray_cluster, job, tmp_path):
    """In a process of its own, with a Ray of its own, as a person runs it."""
    environment = {key: each for key, each in os.environ.items() if "RAY_" not in key}
    environment |= {"PYTHONPATH": "platform", "LAMINA_TEST": str(tmp_path)}
    words = ["hosts.count=1", "training.epochs=15"]
    command = [sys.executable, "-m", "lamina.cli", "sweep", str(job), *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as sweep:
        for line in sweep.stdout:
            if "is ready" in line:
                break
        sweep.send_signal(signal.SIGTERM)
        out, err = sweep.communicate()
    assert sweep.returncode == 128 + signal.SIGTERM, (out, err)
    assert err.splitlines()[-1].startswith("stopped by SIGTERM; the same command goes on")
    assert "Traceback" not in err
    assert left_after(30, f"LAMINA_TEST={tmp_path}") == []
    with hosts_in_threads():
        again = lamina("resume", tmp_path / "out")
    assert again.exit_code == 0, again.output
    assert "found 3 trials in " in again.stdout


def left_after(seconds, variable):
    """Processes that inherited a variable and do not end in time: Ray's own notice by themselves
    that their raylet is gone."""
    deadline = time.monotonic() + seconds
    while (found := processes_with(variable)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def processes_with(variable):
    """Processes that inherited a variable."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(variable.partition("=")[0]) == variable.partition("=")[2]:
                found.append(" ".join(process.cmdline()))
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found
