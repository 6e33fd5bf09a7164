"""A small job to change in tests."""

import copy

import pytest

_JOB = {
    "name": "small",
    "stream": {"name": "digits"},
    "scenario": {"kind": "class_incremental"},
    "backbone": {"name": "minilm"},
    "adapter": {"kind": "lora", "rank": 4},
    "strategy": {"name": "finetune"},
    "memory": {"policy": "reservoir", "size": 50},
    "training": {"epochs": 1},
}


@pytest.fixture
def small():
    """A complete job as a plain mapping."""
    return copy.deepcopy(_JOB)
