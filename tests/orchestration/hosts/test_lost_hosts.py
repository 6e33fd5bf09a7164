"""Trials that take their host down."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lamina
from watched import DRIVER, RAY

pytestmark = RAY

DEADLY = '''"""Ends the process of its host."""

import os

from lamina.strategies.finetune import Finetune


class Deadly(Finetune):
    def step(self, model, batch, replay):
        os._exit(1)
'''


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
