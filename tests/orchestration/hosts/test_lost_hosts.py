"""Hosts that die and do not come back, and trials that take their host down."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lamina
from watched import DRIVER, RAY, matrix_alone

pytestmark = RAY

DEADLY = '''"""Ends the process of its host."""

import os

from lamina.strategies.finetune import Finetune


class Deadly(Finetune):
    def step(self, model, batch, replay):
        os._exit(1)
'''

TWO_NODES = (
    """
import os
from ray.cluster_utils import Cluster
nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = nodes.add_node(num_cpus=1)
os.environ["RAY_ADDRESS"] = nodes.address
"""
    + """
import json, sys
from lamina.config import parse_job
from lamina.orchestration.sweep.run import run_sweep
reporting = set()
def lose_the_second_node(event):
    print(json.dumps(event), flush=True)
    if event["event"] == "reported" and event["host"] is not None and len(reporting) < 2:
        reporting.add(event["host"])
        if len(reporting) == 2:
            nodes.remove_node(second, allow_graceful=False)
rows = run_sweep(parse_job(json.loads(sys.argv[1])), lose_the_second_node)
print(json.dumps({"event": "rows", "rows": rows}), flush=True)
"""
)
"""A program that runs a sweep on two nodes and loses the second for good, when a host on each has
learned a task; prints the events and the rows."""


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
    assert events[-1] == {"event": "sweep_finished", "trial": None, "status": "finished"}


@pytest.mark.timeout(900)
def test_a_node_that_is_gone_for_good_gives_its_trial_to_the_other(make_job, tmp_path):
    job = make_job(tmp_path / "out")
    job["hosts"] = {"cohort": 1}
    job["sweep"] = {"variants": [{"seed": seed} for seed in range(3)]}
    environment = {"PYTHONPATH": "platform", "RAY_AUTH_MODE": "disabled"}
    events = events_of(TWO_NODES, job, tmp_path, **environment)
    rows = events.pop()["rows"]
    assert [row["status"] for row in rows] == ["finished"] * 3
    (lost,) = {event["host"] for event in events if event["event"] == "host_lost"}
    by_lost = {event["trial"] for event in events if event.get("host") == lost} - {None}
    other = {
        event["trial"] for event in events if event["event"] == "started" and event["host"] != lost
    }
    assert by_lost & other, "what it had begun the other host went on with"
    for row in rows:
        alone = [[list(part) for part in pair] for pair in matrix_alone(row["mapping"])]
        assert [[each["validation"], each["test"]] for each in row["reports"]] == alone
