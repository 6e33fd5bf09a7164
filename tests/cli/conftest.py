"""A job that runs in seconds, as a file, and the command line."""

import pytest
import yaml
from click.testing import CliRunner

from lamina.cli import main


@pytest.fixture(scope="module", autouse=True)
def _packs_are_chosen_quickly(few_comparisons):
    """In this process."""


@pytest.fixture
def lamina():
    """Runs the command line in this process."""
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def job(tmp_path, tiny_vit_folder):
    """Two strategies on digits, as the path of a job file."""
    mapping = {
        "name": "small",
        "stream": {"name": "digits"},
        "scenario": {"kind": "class_incremental", "num_tasks": 2, "limit_per_class": 8},
        "backbone": {"name": str(tiny_vit_folder)},
        "adapter": {"kind": "lora", "rank": 2},
        "strategy": {"name": "er"},
        "memory": {"policy": "reservoir", "size": 10},
        "training": {"epochs": 1, "batch_size": 16},
        "sweep": {
            "variants": [{"strategy": {"name": "er"}}, {"strategy": {"name": "simplecil"}}],
            "space": {"training.learning_rate": {"grid_search": [0.001, 0.01]}},
        },
        "tracking": {"enabled": False},
        "output_dir": str(tmp_path / "out"),
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(mapping))
    return path
