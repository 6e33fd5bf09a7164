"""Ray itself: joining the cluster that the environment names, or starting one on this machine."""

import ctypes
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray

from lamina.config import HostSettings
from lamina.registry import InputError

_SETTINGS = {
    # Ray's own tables, loggers and files: the store is what knows, and the command line is what
    # shows.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # A metric that is undefined after the first task (forgetting, say) is absent, not an error.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # Ctrl-C is a KeyboardInterrupt like in any program.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Relative paths in a job mean the same on a host as in the shell.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # A callback per host costs a process, and a host loses no more than one task anyway.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # An autoscaler may take minutes to bring the machine that a host waits for.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
    # Seconds until a host's death or end is noticed (Ray's default is 2).
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
}

_ANSWER_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1
"""Linux's option for the signal that a process gets when its parent ends."""


def end_with_raylet() -> None:
    """Let an actor's process be killed when its raylet is gone. Ray's workers end by themselves
    then, but for one that is stopped, which would hold on to what it has locked. On Linux; outside
    of an actor nothing happens."""
    if (
        sys.platform == "linux"
        and ray.is_initialized()
        and ray.get_runtime_context().get_actor_id()
    ):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def cluster(num_cpus: int | None = None) -> Iterator[None]:
    """Ray, for the time of a sweep.

    A Ray that this process is connected to is used and left alone. Otherwise `RAY_ADDRESS` (which
    `ray job submit` sets) says which cluster to join, and without it one is started on this machine
    and stopped at the end.

    Raises InputError when the named cluster cannot be joined.
    """
    for key, value in _SETTINGS.items():
        os.environ.setdefault(key, value)
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    try:
        with _own_sigterm():
            if address:
                _join(address)
            else:
                _start(num_cpus)
        # Tune's summaries of failed trials are errors to it; the store tells of each trial.
        logging.getLogger("ray").setLevel(logging.ERROR)
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        yield
    finally:
        ray.shutdown()


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Ray puts its own way to end on SIGTERM in the place of this process's, if that has one."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and before not in (signal.SIG_DFL, None):
        signal.signal(signal.SIGTERM, before)


def _join(address: str) -> None:
    """Connect to a cluster. Its runtime environment (see jobs/runtime_env.yaml) brings Lamina to
    its workers."""
    check_address(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"RAY_ADDRESS: cannot join the Ray cluster at {address!r}: {reason} "
            "(one with tokens needs RAY_AUTH_MODE=token and its token; see clusters/README.md)"
        ) from error


def check_address(address: str) -> None:
    """Raises InputError when nobody answers at `host:port`, for which Ray itself would try for many
    minutes, or when the address is of another kind than a driver needs."""
    if address.startswith("ray://"):
        raise InputError(
            f"RAY_ADDRESS: {address!r} is for Ray's client (allowed: host:port on a machine of the "
            "cluster; from elsewhere, `ray job submit`)"
        )
    host, _, port = address.rpartition(":")
    if port.isdigit() and (error := answers(host, int(port))):
        raise InputError(f"RAY_ADDRESS: no Ray cluster answers at {address!r}: {error}") from error


def answers(host: str, port: int) -> OSError | None:
    """Why no process answers there; None where one does."""
    try:
        socket.create_connection((host, port), timeout=_ANSWER_SECONDS).close()
    except OSError as error:
        return error
    return None


def _start(num_cpus: int | None) -> None:
    """Start Ray on this machine. Its processes inherit PYTHONPATH, so that they find Lamina even if
    it is not installed."""
    source = str(Path(__file__).parents[2])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([source, *([before] if before else [])])
    try:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@dataclass(frozen=True)
class Device:
    """The device of one host."""

    is_gpu: bool
    threads: int
    """CPU cores."""


def choose_devices(hosts: HostSettings) -> list[Device]:
    """What each process of each host takes: a GPU or CPU cores, as the job says and the cluster
    has. A host is `hosts.workers_per_trial` processes.

    Raises InputError for GPUs where there are none.
    """
    found = ray.cluster_resources()
    num_gpus, num_cpus = int(found.get("GPU", 0)), int(found.get("CPU", 1))
    if hosts.device == "cuda" and num_gpus == 0 and hosts.count is None:
        raise InputError("hosts.device: 'cuda' is not there (allowed: auto, cpu)")
    is_gpu = hosts.device == "cuda" or (hosts.device == "auto" and num_gpus > 0)
    room = num_gpus if is_gpu else num_cpus // hosts.threads
    count = hosts.count or max(room // hosts.workers_per_trial, 1)
    return [Device(is_gpu, hosts.threads)] * count


def own_node_resource() -> str:
    """The resource that only this process's node has, and has one of."""
    here = ray.get_runtime_context().get_node_id()
    (node,) = [each for each in ray.nodes() if each["NodeID"] == here]
    return f"node:{node['NodeManagerAddress']}"
