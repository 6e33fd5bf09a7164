"""Sweeps in one output folder whose data change, on real Ray."""

import csv
import random

import pytest
import torch

from lamina.config import HostSettings
from lamina.orchestration.hosts.resident_backbones import ResidentBackbones
from lamina.registry import InputError
from watched import RAY, Watched, matrix, matrix_alone

pytestmark = RAY


def write(path, seed):
    """Texts of four classes; another `seed` deals the classes out otherwise."""
    labels = [name for name in ("lamp", "door", "song", "rain") for _ in range(12)]
    texts = [f"{label} number {n}" for n, label in enumerate(labels)]
    random.Random(seed).shuffle(labels)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *zip(texts, labels, strict=True)])


@pytest.fixture
def job(make_job, tmp_path):
    """Makes a job over two seeds, given the file of its data."""

    def make(path):
        source = {"name": "huggingface", "path": str(path)}
        return {
            **make_job(tmp_path / "100% of a#b? ä"),
            "stream": {**source, "text_column": "text", "label_column": "label"},
            "scenario": {"kind": "class_incremental", "num_tasks": 2},
            "strategy": {"name": "ncm"},
            "sweep": {"space": {"seed": {"grid_search": [0, 1]}}},
            "hosts": {"count": 1},
        }

    return make


def test_other_data_in_the_same_place_are_learned_and_the_same_elsewhere_are_known(
    ray_cluster, job, tmp_path
):
    path = tmp_path / "data.csv"
    write(path, seed=1)

    def take_away(event):
        """Every stream is read on the driver, before hosts are at work: they need no file."""
        if event["event"] == "sweep_started":
            path.unlink()

    first = Watched(job(path), take_away, in_threads=True)
    assert [row["status"] for row in first.rows] == ["finished", "finished"]
    assert not first.of("renewed")

    write(path, seed=2)
    second = Watched(job(path), in_threads=True)
    (renewed,) = second.of("renewed")
    assert (len(renewed["names"]), renewed["why"]) == (2, "the data changed")
    assert {row["status"] for row in second.rows} == {"finished"}
    assert len(second.rows) == 2
    assert not {row["trial"] for row in first.rows} & {row["trial"] for row in second.rows}
    for row in second.rows:
        assert matrix(row["reports"]) == matrix_alone(row["mapping"])

    # A trial of the first sweep cannot go on from its checkpoint on other rows.
    backbones = ResidentBackbones(torch.device("cpu"), HostSettings(), lambda _, build: build())
    with pytest.raises(InputError, match=r"learned_from\.stream: .* the data that is there now"):
        backbones.learner(first.rows[0]["mapping"])

    write(tmp_path / "elsewhere.csv", seed=1)
    third = Watched(job(tmp_path / "elsewhere.csv"))
    assert len(third.of("known")) == 2
    assert not third.of("host_ready")
    assert {row["trial"] for row in third.rows} == {row["trial"] for row in first.rows}
