"""A job that takes seconds."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _packs_are_chosen_quickly(few_comparisons):
    """In this process."""


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
