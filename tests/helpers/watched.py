"""Sweeps that are watched, drivers that are killed, and what trials give alone."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from unittest.mock import patch

import psutil
import pytest
import ray
import torch

from lamina.config import HostSettings, parse_job
from lamina.orchestration.hosts.heartbeat import heartbeat
from lamina.orchestration.hosts.host import train_claimed
from lamina.orchestration.hosts.resident_backbones import ResidentBackbones
from lamina.orchestration.sweep.run import run_sweep

RAY = [
    pytest.mark.ray,
    # Ray 2.60 copies a context of its own, attribute by deprecated attribute.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
]
"""The marks of a test that runs a sweep."""


DRIVER = """
import json, sys
from lamina.config import parse_job
from lamina.orchestration.sweep.run import run_sweep
run_sweep(parse_job(json.loads(sys.argv[1])), lambda event: print(json.dumps(event), flush=True))
"""
"""A program that runs the sweep of the job it is given and prints its events."""


@contextmanager
def killed_driver(mapping, program=DRIVER):
    """The events of a driver in a process of its own, on the cluster of the tests; `kill -9` at the
    end of the block."""
    environment = {
        **os.environ,
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
        "RAY_AUTH_MODE": "token",
        "PYTHONPATH": "platform",
    }
    command = [sys.executable, "-c", program, json.dumps(mapping)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as driver:
        yield (json.loads(line) for line in driver.stdout if line.startswith("{"))
        driver.send_signal(signal.SIGKILL)


def kill_processes(*titles):
    """Kill what Ray has started for this process under these titles; returns how many there
    were."""
    found = [
        each for each in psutil.Process().children(recursive=True) if each.name().startswith(titles)
    ]
    for each in found:
        each.kill()
    return len(found)


def kill_thin_trials():
    """Kill the processes of thin trials; returns how many there were."""
    return kill_processes("ray::ResourceTrainable", "ray::ThinTrial")


def report_of(task, num_tasks=3):
    """A report as a host would give it."""
    return {
        "task": task,
        "task_name": f"t{task}",
        "num_tasks": num_tasks,
        "validation": [0.5] * num_tasks,
        "test": [0.5] * num_tasks,
        "metrics": {"validation/average_accuracy": 0.1 * task},
        "done": task == num_tasks - 1,
    }


def matrix(reports):
    """R of the validation and the test parts."""
    return [(each["validation"], each["test"]) for each in reports]


def matrix_alone(mapping):
    """R of a trial that is trained here and now, without Ray."""
    backbones = ResidentBackbones(torch.device("cpu"), HostSettings(), lambda _, build: build())
    reports = list(backbones.learner(mapping).learn())
    return [(each.validation, each.test) for each in reports]


def _host_in_a_thread(settings, folder, on_controller, is_over):
    with heartbeat(settings.store, settings.name):
        train_claimed(settings, torch.device("cpu"))


def hosts_in_threads():
    """While within, the hosts of a sweep are threads of this process.

    A test that is about Ray Tune, the store or the command line is spared the start of Ray Train,
    twelve CPU seconds a host.
    """
    return patch("lamina.orchestration.sweep.run.run_host", _host_in_a_thread)


class Watched:
    """Runs a sweep, keeps its events, and calls `react` with each. `in_threads`: with its hosts in
    this process."""

    def __init__(self, mapping, react=lambda event: None, *, in_threads=False):
        self.events = []
        self._react = react
        with hosts_in_threads() if in_threads else nullcontext():
            self.rows = run_sweep(parse_job(mapping), self._on_event)

    def _on_event(self, event):
        self.events.append(event)
        self._react(event)

    def of(self, kind, **fields):
        """The events of a kind with these fields."""
        return [
            event
            for event in self.events
            if event["event"] == kind and fields.items() <= event.items()
        ]
