"""Hosts that die and do not come back, and trials that take their host down."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from ray.util import placement_group_table

import lamina
from watched import DRIVER, RAY, Watched, kill_processes, matrix, matrix_alone

pytestmark = RAY

DEADLY = '''"""Ends the process of its host."""

import os

from lamina.strategies.finetune import Finetune


class Deadly(Finetune):
    def step(self, model, batch, replay):
        os._exit(1)
'''

TWO_NODES = """
import json, os, sys
import psutil
from ray.cluster_utils import Cluster
from lamina.config import parse_job
from lamina.orchestration.store import host_watch
from lamina.orchestration.sweep.run import run_sweep

host_watch.SILENT_SECONDS = 15.0
nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = nodes.add_node(num_cpus=1, node_ip_address="127.0.0.2")
(raylet,) = second.all_processes["raylet"]
os.environ["RAY_ADDRESS"] = nodes.address
there = []

def lose_the_second_node(event):
    print(json.dumps(event), flush=True)
    if event["event"] == "host_ready":
        if psutil.Process(event["process"]).ppid() == raylet.process.pid:
            there.append(event["host"])
    if event["event"] == "reported" and event["host"] in there:
        there.clear()
        nodes.remove_node(second, allow_graceful=False)

rows = run_sweep(parse_job(json.loads(sys.argv[1])), lose_the_second_node)
print(json.dumps({"event": "rows", "rows": rows}), flush=True)
nodes.shutdown()
"""
"""A program that runs a sweep on two nodes and loses the second for good when its host has learned
a task; prints the events and the rows. The nodes' addresses differ, as those of two machines do.
The store waits half as long as usual for a host that is silent."""


def events_of(program, job, folder, **environment):
    """What a program prints that runs the sweep of a job in a process of its own."""
    inherited = {key: each for key, each in os.environ.items() if not key.startswith("RAY_")}
    command = [sys.executable, "-W", "ignore", "-c", program, json.dumps(job)]
    log = folder / "stderr.txt"
    with log.open("w") as errors:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**inherited, **environment},
            check=False,
        )
    assert done.returncode == 0, log.read_text()[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.timeout(900)
def test_a_trial_that_ends_the_process_of_its_host_fails_also_where_it_is_the_last(
    make_job, tmp_path
):
    source = tmp_path / "platform"
    shutil.copytree(Path(lamina.__file__).parent, source / "lamina")
    (source / "lamina" / "strategies" / "deadly.py").write_text(DEADLY)
    job = make_job(tmp_path / "out")
    job["training"] = {"epochs": 1, "batch_size": 16}
    job["hosts"] = {"count": 1, "cohort": 1}
    job["sweep"] = {
        "variants": [{"strategy": {"name": "simplecil"}}, {"strategy": {"name": "deadly"}}]
    }
    job["strategy"] = {"name": "deadly"}
    del job["memory"]
    events = events_of(DRIVER, job, tmp_path, PYTHONPATH=str(source))
    (failed,) = [event for event in events if event["event"] == "failed"]
    assert failed["trial"].startswith("deadly-")
    assert "its host died 3 times on the same task" in failed["error"]
    assert len([event for event in events if event["event"] == "finished"]) == 1
    assert {"event": "sweep_finished", "trial": None, "status": "finished"} in events


@pytest.mark.timeout(900)
def test_the_trial_of_a_node_that_is_gone_for_good_goes_to_the_host_that_is_there(
    make_job, tmp_path
):
    job = make_job(tmp_path / "out")
    job["training"] = {"epochs": 8, "batch_size": 16}
    job["hosts"] = {"count": 2, "cohort": 1}
    job["sweep"] = {"variants": [{"seed": seed} for seed in range(3)]}
    # Ray's sockets have a path of at most 107 characters. A folder of its own: the address of this
    # cluster is then nobody else's.
    with TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        environment = {
            "PYTHONPATH": str(Path(lamina.__file__).parents[1]),
            "RAY_TMPDIR": folder,
            "RAY_AUTH_MODE": "disabled",
            # That a node is gone is noticed after five such periods; Ray's own are of 3 seconds.
            "RAY_health_check_period_ms": "1000",
        }
        *events, rows = events_of(TWO_NODES, job, tmp_path, **environment)
    assert [row["status"] for row in rows["rows"]] == ["finished"] * 3
    (lost,) = {event["host"] for event in events if event["event"] == "host_lost"}
    started = [(event["trial"], event["host"]) for event in events if event["event"] == "started"]
    with_lost = {trial for trial, host in started if host == lost}
    with_other = {trial for trial, host in started if host != lost}
    assert with_lost & with_other, "what the lost host had begun, the other went on with"
    for row in rows["rows"]:
        alone = [[list(part) for part in pair] for pair in matrix_alone(row["mapping"])]
        assert [list(pair) for pair in matrix(row["reports"])] == alone
    assert {"event": "sweep_finished", "trial": None, "status": "finished"} in events


def test_a_host_whose_controller_is_killed_is_started_again_in_its_place(
    ray_cluster, make_job, tmp_path
):
    job = make_job(tmp_path / "out")
    job["hosts"] = {"count": 1, "cohort": 1}
    job["sweep"] = {"variants": [{"seed": 0}]}
    killed = []

    def kill_the_controller(event):
        if event["event"] == "reported" and not killed:
            killed.append(kill_processes("ray::TrainController"))

    sweep = Watched(job, kill_the_controller)
    assert killed == [1]
    assert len(sweep.of("host_ready", host="host-0")) == 2
    # Nothing is reserved for a host that is not there.
    assert {each["state"] for each in placement_group_table().values()} <= {"REMOVED"}
    (row,) = sweep.rows
    assert row["status"] == "finished"
    assert matrix(row["reports"]) == matrix_alone(row["mapping"])
