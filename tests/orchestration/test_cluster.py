"""Which Ray a sweep runs on, and what that prints."""

import os
import socket
import subprocess
import sys

import pytest

from lamina.orchestration.cluster import check_address
from lamina.registry import InputError

ACTOR_THAT_IS_KILLED = """
import os, signal, time
from lamina.orchestration.cluster import cluster
import ray

class Actor:
    def process(self):
        return os.getpid()
    def work(self):
        time.sleep(2)

with cluster(num_cpus=1):
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
    actor = ray.remote(Actor).options(**options).remote()
    process = ray.get(actor.process.remote())
    work = actor.work.remote()
    time.sleep(1)
    os.kill(process, signal.SIGKILL)
    ray.get(work)
    assert ray.get(actor.process.remote()) != process
    print("done")
"""
"""A program that kills an actor as the store is one, in a call that is made again."""


def test_a_cluster_that_does_not_answer_is_an_error_at_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InputError, match=f"RAY_ADDRESS: no Ray cluster answers at '{address}'"):
            check_address(address)


def test_a_cluster_that_answers_may_be_joined():
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_address(f"127.0.0.1:{server.getsockname()[1]}")


def test_a_ray_client_address_is_refused():
    with pytest.raises(InputError, match="is for Ray's client"):
        check_address("ray://127.0.0.1:10001")


@pytest.mark.ray
def test_an_actor_that_is_killed_and_started_again_is_no_matter_for_rays_own_words():
    environment = {key: each for key, each in os.environ.items() if not key.startswith("RAY_")}
    command = [sys.executable, "-W", "ignore", "-c", ACTOR_THAT_IS_KILLED]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**environment, "PYTHONPATH": "platform"},
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
