"""A trial that several workers train together."""

import torch
from safetensors.torch import load, load_file

from lamina.bundles.bundle import MODEL
from lamina.config import HostSettings, parse_job
from lamina.orchestration.hosts.claimed_trials import left_behind
from lamina.orchestration.hosts.resident_backbones import ResidentBackbones
from watched import RAY, Watched

pytestmark = RAY


def test_two_workers_of_a_job_file_learn_what_one_does_with_the_same_batches(
    ray_cluster, make_job, tmp_path
):
    job = make_job(tmp_path / "out")
    # SGD hands a rounding on as it is. Rows from a memory would not divide as a batch does.
    job["strategy"], job["memory"] = {"name": "finetune"}, None
    job["training"] = {"epochs": 2, "batch_size": 16, "optimizer": "sgd", "learning_rate": 0.05}
    job["hosts"] = {"count": 1, "workers_per_trial": 2}
    del job["sweep"]
    sweep = Watched(job)
    (row,) = sweep.rows
    assert row["status"] == "finished"
    (ready,) = sweep.of("host_ready")
    assert ready["where"].startswith("2 workers")

    backbones = ResidentBackbones(torch.device("cpu"), HostSettings(), lambda _, build: build())
    learner = backbones.learner(row["mapping"])
    alone = list(learner.learn())
    assert [each["test"] for each in row["reports"]] == [each.test for each in alone]
    folder, files = left_behind(learner, row["mapping"], row["trial"], row["name"])
    mine = trained(load(files[MODEL]))
    theirs = trained(load_file(tmp_path / "out" / "trials" / row["trial"] / folder / MODEL))
    assert mine.keys() == theirs.keys()
    assert mine
    for name, tensor in mine.items():
        assert torch.allclose(tensor, theirs[name], atol=1e-4), name


def trained(tensors):
    """Without what a strategy counts."""
    return {
        name: each for name, each in tensors.items() if not name.startswith(("strategy/", "struct"))
    }


def test_several_workers_train_one_trial_at_a_time_and_no_client(make_job, tmp_path):
    job = make_job(tmp_path)
    job["hosts"] = {"cohort": 4, "workers_per_trial": 2}
    assert parse_job(job).hosts.cohort is None
    del job["sweep"]
    federated = parse_job({**job, "federation": {"clients": 3, "rounds": 1}})
    assert federated.hosts.workers_per_trial == 1
