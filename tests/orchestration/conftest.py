"""A Ray cluster for all tests here, a job that takes seconds, and what its trials give without
Ray."""

import gc
import warnings
from contextlib import ExitStack

import pytest

from lamina.orchestration.cluster import cluster


@pytest.fixture(scope="session")
def ray_cluster():
    """Ray on this machine, with two cores."""
    with ExitStack() as stack:
        stack.enter_context(cluster(num_cpus=2))
        yield
        with warnings.catch_warnings():
            # Ray does not wait for every process that it has ended.
            warnings.filterwarnings("ignore", "subprocess .* is still running", ResourceWarning)
            stack.close()
            gc.collect()


@pytest.fixture(scope="session")
def make_job(tiny_bert_folder):
    """Makes the mapping of a job, given its output folder: two strategies with a tiny backbone on
    three tasks."""
    return lambda output_dir: {
        "name": "small",
        "stream": {"name": "assistant", "sentences_per_intent": 20},
        "scenario": {"kind": "class_incremental", "num_tasks": 3},
        "backbone": {"name": str(tiny_bert_folder)},
        "adapter": {"kind": "lora", "rank": 4},
        "strategy": {"name": "er"},
        "memory": {"policy": "reservoir", "size": 30},
        "training": {"epochs": 3, "batch_size": 16},
        "sweep": {"variants": [{"strategy": {"name": "er"}}, {"strategy": {"name": "simplecil"}}]},
        "output_dir": str(output_dir),
        "tracking": {"enabled": False},
    }
