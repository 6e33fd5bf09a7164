"""A sweep whose driver was killed goes on where it was."""

import json
import os
import signal
import subprocess
import sys

import ray

from watched import DRIVER, RAY, Watched, matrix, matrix_alone

pytestmark = RAY


def test_kill_9_of_the_driver_costs_no_task_that_was_reported(ray_cluster, make_job, tmp_path):
    job = make_job(tmp_path / "out")
    job["hosts"] = {"count": 1}
    del job["sweep"]
    environment = {
        **os.environ,
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
        "RAY_AUTH_MODE": "token",
        "PYTHONPATH": "platform",
    }
    command = [sys.executable, "-c", DRIVER, json.dumps(job)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as driver:
        lines = (json.loads(line) for line in driver.stdout if line.startswith("{"))
        reports = (event for event in lines if event["event"] == "reported")
        reported = next(reports)
        driver.send_signal(signal.SIGKILL)
    sweep = Watched(job)
    (row,) = sweep.rows
    assert (row["trial"], row["status"]) == (reported["trial"], "finished")
    assert reported["report"]["task"] not in [
        event["report"]["task"] for event in sweep.of("reported")
    ]
    assert matrix(row["reports"]) == matrix_alone(row["mapping"])
