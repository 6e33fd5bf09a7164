"""A store that does not answer, however often it is started again. (One that is stopped, in a
sweep: `test_run.py`.)"""

import asyncio
import subprocess
import sys

import pytest
import ray

from lamina.orchestration.store.client import SilentStoreError, StoreClient
from lamina.orchestration.sweep import store_watch
from watched import RAY

pytestmark = RAY


@pytest.mark.timeout(300)
def test_a_store_that_stays_silent_is_given_up_and_whoever_waits_for_it_is_told(
    ray_cluster, monkeypatch
):
    class Mute:
        """An actor in the place of the store that answers no call."""

        async def answer(self):
            await asyncio.Event().wait()

        results = answer

    for name, value in (("ASK_SECONDS", 0.1), ("SILENT_SECONDS", 1.0), ("MOST_STARTS", 1)):
        monkeypatch.setattr(store_watch, name, value)
    actor = ray.remote(Mute).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
    store, silences = StoreClient(actor), []
    with (
        pytest.raises(SilentStoreError, match="however often it is started again"),
        store_watch.watched(store, silences.append),
    ):
        store.results()
    assert silences == [1.0]


STOPPED = """
import os, signal, sys, time
import psutil, ray
from pathlib import Path
from lamina.orchestration.cluster import cluster
from lamina.orchestration.store.actor import start_store
from lamina.tracking.json_lines import JsonLinesTracker
with cluster(num_cpus=1):
    folder = Path(sys.argv[1])
    store = start_store(folder, "one", False, lambda run: JsonLinesTracker(folder / "events"))
    process = psutil.Process(ray.get(store.actor.answer.remote()))
    process.suspend()
    raylet = process.parent()
    raylet.kill()
    _, alive = psutil.wait_procs([process], timeout=20)
    print(process.status() if alive else "gone", flush=True)
    os._exit(0)
"""


@pytest.mark.timeout(120)
def test_a_store_that_is_stopped_ends_with_its_raylet(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", STOPPED, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1:] == ["gone"], done.stderr
