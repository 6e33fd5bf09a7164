"""`ray job submit` to a cluster that was started with `ray start --head`, asks for tokens and has
no Lamina."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
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
    environment.pop("PYTHONPATH", None)
    ports = free_ports(3)
    # A socket's path has at most 107 characters, so Ray's folder cannot be below pytest's.
    folder = Path("/tmp", f"lamina-{secrets.token_hex(4)}")
    command = [
        *(RAY, "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=2"),
        *(f"--port={ports[0]}", f"--dashboard-port={ports[1]}"),
        *(f"--dashboard-agent-listen-port={ports[2]}", f"--temp-dir={folder}"),
    ]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, cwd=tmp_path
    ) as head:
        try:
            assert any("Ray runtime started" in line for line in head.stdout)
            yield f"http://127.0.0.1:{ports[1]}", environment
        finally:
            # Ray ends everything that it has started.
            head.send_signal(signal.SIGTERM)
            head.communicate(timeout=60)
            subprocess.run(["rm", "-rf", str(folder)], check=True)


def free_ports(count):
    """Ports that nobody listens on at the moment."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def submit(cluster, *command):
    """What `ray job submit` says of a Python command, and its exit code."""
    address, environment = cluster
    done = subprocess.run(
        [
            *(RAY, "job", "submit", "--address", address, "--working-dir", str(ROOT)),
            *("--runtime-env", str(ROOT / "jobs" / "runtime_env.yaml"), "--"),
            *("python", *command),
        ],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


SWEEP = ("-m", "lamina.cli", "sweep", "jobs/quickstart.yaml")


def test_a_sweep_runs_on_a_cluster_that_was_started_by_hand(cluster, tmp_path):
    code, said = submit(cluster, "-c", "import lamina; print(lamina.__file__)")
    assert code == 0, said
    assert "working_dir_files" in said, "the uploaded Lamina comes before any other"
    code, said = submit(cluster, *SWEEP)
    assert code == 1
    assert "output_dir: 'runs/quickstart' would be deleted" in said
    code, said = submit(
        cluster,
        *SWEEP,
        f"output_dir={tmp_path}/out",
        "sweep.variants=[{strategy: {name: simplecil}}]",
        "sweep.space={}",
        "stream.sentences_per_intent=20",
        "hosts.count=1",
    )
    assert code == 0, said
    (row,) = json.loads((tmp_path / "out" / "leaderboard.json").read_text())
    assert (row["strategy"], row["status"]) == ("simplecil", "finished")
