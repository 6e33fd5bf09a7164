"""A sweep that is packed and keeps features, proved by training trials again alone."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from lamina.config import HostSettings
from lamina.orchestration.cluster import Device
from lamina.orchestration.sweep.verify import verify
from watched import RAY, Watched

pytestmark = RAY


@pytest.fixture(scope="module")
def packed(ray_cluster, make_job, tmp_path_factory):
    """Four trials of two strategies, packed by two hosts that keep features."""
    folder = tmp_path_factory.mktemp("verified") / "out"
    job = make_job(folder)
    job["adapter"] = {"kind": "lora", "rank": 4, "layers": [-1]}
    job["hosts"] = {"cohort": 2}
    job["sweep"] = {
        "variants": [{"strategy": {"name": "er"}}, {"strategy": {"name": "finetune"}}],
        "space": {"training.learning_rate": {"grid_search": [1e-3, 2e-3]}},
        "verify": 0.5,
    }
    return Watched(job, in_threads=True), folder


def test_a_share_of_the_trials_is_trained_again_and_is_the_same(packed):
    sweep, _ = packed
    verdicts = sweep.of("verified")
    assert len(verdicts) == 2
    assert all(each["holds"] and each["same_matrices"] for each in verdicts)
    assert all(each["difference"] <= 1e-5 for each in verdicts)


def test_hosts_train_several_trials_at_a_time(packed):
    sweep, _ = packed
    running, most = {}, 0
    for event in sweep.events:
        if event["event"] == "started":
            running[event["trial"]] = event["host"]
        elif event["event"] == "finished":
            running.pop(event["trial"])
        most = max(most, *(list(running.values()).count(host) for host in ("host-0", "host-1")))
    assert most == 2


def test_a_trial_that_is_not_what_it_is_alone_is_found(packed, ray_cluster):
    sweep, folder = packed
    rows = [row for row in sweep.rows if row["name"].startswith("finetune")][:1]
    model = folder / "trials" / rows[0]["trial"] / "bundle" / "model.safetensors"
    tensors = load_file(model)
    moved = {name: each + 0.01 for name, each in tensors.items() if "/head/" in name}
    assert moved
    save_file({**tensors, **moved}, model)
    (verdict,) = verify(rows, 1.0, 0, Path(folder), HostSettings(), [Device(False, 1)])
    assert verdict.same_matrices
    assert not verdict.holds
    assert verdict.difference == pytest.approx(0.01, rel=1e-3)
    assert json.dumps(verdict.trial)
