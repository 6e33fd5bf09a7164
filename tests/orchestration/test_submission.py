"""Jobs that are sent to a cluster on one machine, which asks for tokens and has no Lamina."""

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

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The environment of somebody who may submit, and the address."""
    tmp_path = tmp_path_factory.mktemp("cluster")
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
        *(str(ROOT / "clusters" / "one_machine.sh"), "--block", "--num-cpus=2"),
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


SMALL = [
    "sweep.variants=[{strategy: {name: simplecil}}]",
    "sweep.space={}",
    "stream.sentences_per_intent=20",
    "hosts.count=1",
]
QUICKSTART = "jobs/quickstart.yaml"


def lamina(*words, environment=None):
    """A command of Lamina, to its end."""
    command = [sys.executable, "-W", "ignore", "-m", "lamina.cli", *words]
    path = {"PYTHONPATH": str(ROOT / "platform"), "COLUMNS": "120"}
    inherited = {**os.environ, **(environment or {}), **path}
    return subprocess.run(
        command, env=inherited, cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_a_sweep_is_sent_to_a_cluster_watched_from_elsewhere_and_goes_on_when_sent_by_ray(
    cluster, tmp_path
):
    address, environment = cluster
    words = [*SMALL, f"output_dir={tmp_path}/out"]
    sent = lamina(
        "submit", QUICKSTART, *words, "--follow", "--address", address, environment=environment
    )
    assert sent.returncode == 0, sent.stdout + sent.stderr
    assert f"ray job submit --address {address} --runtime-env-json" in sent.stdout
    assert "[1/1] simplecil finished" in sent.stdout
    assert Path(environment["RAY_AUTH_TOKEN_PATH"]).read_text() not in sent.stdout
    (row,) = json.loads((tmp_path / "out" / "leaderboard.json").read_text())["trials"]
    assert (row["strategy"], row["status"]) == ("simplecil", "finished")

    shown = lamina("trials", str(tmp_path / "out"), "--address", address, environment=environment)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert shown.stdout.splitlines()[-1].split()[1:4] == ["simplecil", "finished", "6/6"]

    plain = [
        *(RAY, "job", "submit", "--address", address, "--working-dir", str(ROOT)),
        *("--runtime-env", str(ROOT / "jobs" / "runtime_env.yaml"), "--"),
        *("python", "-m", "lamina.cli", "sweep", QUICKSTART, *words),
    ]
    done = subprocess.run(plain, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "simplecil was finished before" in done.stdout


def test_whoever_has_no_token_is_told_so_in_a_line(cluster):
    address, _ = cluster
    environment = {"RAY_AUTH_MODE": "disabled"}
    sent = lamina(
        "submit", QUICKSTART, "output_dir=/tmp/x", "--address", address, environment=environment
    )
    assert sent.returncode == 2
    (line,) = sent.stderr.splitlines()
    assert "asks for a token" in line
    assert "RAY_AUTH_TOKEN_PATH" in line


def test_a_submitted_job_may_not_leave_its_results_where_ray_deletes_them(tmp_path, monkeypatch):
    folder = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg"
    folder.mkdir(parents=True)
    job = load_job(ROOT / "jobs" / "quickstart.yaml")
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match="output_dir: 'runs/quickstart' would be deleted"):
        run_sweep(job, lambda event: None)
