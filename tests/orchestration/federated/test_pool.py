"""Hosts of a federation that die, or fall silent: what they had is done by others."""

import os
import signal
from contextlib import contextmanager, suppress

import pytest

from lamina.orchestration.cluster import Device
from lamina.orchestration.federated import pool as pool_module
from lamina.orchestration.federated.pool import RayPool
from watched import RAY

pytestmark = RAY
WAITS = 2.0
"""Seconds that a call takes: enough for something to happen to its host."""


def make_worker(*_):
    import time

    class Sleeper:
        def square(self, number, seconds):
            time.sleep(seconds)
            return number**2

    return Sleeper()


@contextmanager
def pool_of(num_hosts, on_event):
    import sys

    import ray.cloudpickle

    # Hosts cannot import a test.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    devices = [Device(is_gpu=False, threads=1)] * num_hosts
    pool = RayPool(make_worker, devices, (), on_event)
    try:
        yield pool
    finally:
        pool.close()


@pytest.mark.parametrize("harm", [signal.SIGKILL, signal.SIGSTOP])
def test_what_a_host_had_that_is_killed_or_stopped_others_do(ray_cluster, monkeypatch, harm):
    monkeypatch.setattr(pool_module, "_SILENT_SECONDS", 2 * WAITS)
    events = []

    def react(event):
        events.append(event)
        ready = [each for each in events if each["event"] == "host_ready"]
        if event["event"] == "host_ready" and len(ready) == 2:
            os.kill(ready[0]["process"], harm)

    with pool_of(2, react) as pool:
        pool.call("square", [(0, 0.0)])
        found = pool.call("square", [(number, WAITS) for number in range(4)])
        again = pool.call("square", [(number, 0.0) for number in range(4)])
        first = next(each["process"] for each in events if each["event"] == "host_ready")
        with suppress(ProcessLookupError):
            os.kill(first, signal.SIGCONT)
    assert found == again == [0, 1, 4, 9]
    lost = [each["host"] for each in events if each["event"] == "host_lost"]
    assert len(lost) == (harm == signal.SIGKILL)


def test_that_no_machine_has_room_is_said(ray_cluster, monkeypatch):
    monkeypatch.setattr(pool_module, "_MISSING_SECONDS", 0.5)
    events = []

    def stop(event):
        events.append(event)
        raise InterruptedError

    devices = [Device(is_gpu=False, threads=64)]
    pool = RayPool(make_worker, devices, (), stop)
    with pytest.raises(InterruptedError):
        pool.call("square", [(1, 0.0)])
    pool.close()
    assert events == [
        {"event": "hosts_missing", "needs": "a machine with 64 free CPU cores"},
    ]
