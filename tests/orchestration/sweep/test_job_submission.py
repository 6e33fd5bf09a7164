"""`ray job submit` to a cluster that was started with `ray start --head`, asks for tokens and has
no Lamina."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lamina.config import load_job
from lamina.orchestration.sweep.run import run_sweep
from lamina.registry import InputError

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[3]
RAY = str(Path(sys.executable).with_name("ray"))


@pytest.fixture
def cluster(tmp_path):
    """The environment of somebody who may submit, and the address."""
    token = tmp_path / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
    }
    # Whatever Lamina may be installed here, a job that finds any but its own fails.
    decoy = tmp_path / "decoy" / "lamina"
    decoy.mkdir(parents=True)
    (decoy / "__init__.py").write_text("raise ImportError('not the Lamina that was uploaded')")
    ports = free_ports(3)
    # A socket's path has at most 107 characters, so Ray's folder cannot be below pytest's.
    folder = Path("/tmp", f"lamina-{secrets.token_hex(4)}")
    command = [
        *(RAY, "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=2"),
        *(f"--port={ports[0]}", f"--dashboard-port={ports[1]}"),
        *(f"--dashboard-agent-listen-port={ports[2]}", f"--temp-dir={folder}"),
    ]
    with subprocess.Popen(
        command,
        env={**environment, "PYTHONPATH": str(decoy.parent)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as head:
        try:
            assert any("Ray runtime started" in line for line in head.stdout)
            yield f"http://127.0.0.1:{ports[1]}", environment
        finally:
            # All that it has started; a polite end takes Ray half a minute.
            os.killpg(head.pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def free_ports(count):
    """Ports that nobody listens on at the moment."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def test_a_sweep_runs_on_a_cluster_that_was_started_by_hand(cluster, tmp_path):
    address, environment = cluster
    submit = [
        *(RAY, "job", "submit", "--address", address, "--working-dir", str(ROOT)),
        *("--runtime-env", str(ROOT / "jobs" / "runtime_env.yaml"), "--"),
        *("python", "-m", "lamina.cli", "sweep", "jobs/quickstart.yaml"),
        f"output_dir={tmp_path}/out",
        "sweep.variants=[{strategy: {name: simplecil}}]",
        "sweep.space={}",
        "stream.sentences_per_intent=20",
        "hosts.count=1",
    ]
    done = subprocess.run(submit, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads((tmp_path / "out" / "leaderboard.json").read_text())
    assert (row["strategy"], row["status"]) == ("simplecil", "finished")


def test_a_submitted_job_may_not_leave_its_results_where_ray_deletes_them(tmp_path, monkeypatch):
    folder = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg"
    folder.mkdir(parents=True)
    job = load_job(ROOT / "jobs" / "quickstart.yaml")
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match="output_dir: 'runs/quickstart' would be deleted"):
        run_sweep(job, lambda event: None)
