"""`lamina federate`, in this process."""

import json

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from language_models import calls_job


@pytest.fixture
def federated(job):
    """The job with four clients."""
    mapping = yaml.safe_load(job.read_text())
    del mapping["sweep"]
    mapping["federation"] = {"clients": 4, "rounds": 2, "participation": 0.5}
    job.write_text(yaml.safe_dump(mapping))
    return job


def test_a_federated_run_shows_its_rounds_and_what_was_reached_beside_the_bounds(
    lamina, federated, tmp_path
):
    shown = lamina("federate", federated, "--in-process")
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith("round ")] == [
        f"round {number}/4" for number in (1, 2, 3, 4)
    ]
    for words in (
        "global",
        "mean over clients",
        "each client alone",
        "one learner on all rows",
        "spatial forgetting",
    ):
        assert any(words in line for line in lines)
    assert sum(line.startswith("client ") for line in lines) == 4 + 1
    result = json.loads((tmp_path / "out" / "federated_result.json").read_text())
    up = sum(client["bytes_up"] for client in result["clients"])
    assert up == result["metrics"]["bytes/up"] > 0
    assert 0 <= result["metrics"]["bound/central/average_accuracy"] <= 1
    tensors = load_file(tmp_path / "out" / "global.safetensors")
    assert "head.weight" in tensors
    events = (tmp_path / "out" / "events.jsonl").read_text().splitlines()
    rounds = [each for each in map(json.loads, events) if "round/loss/median" in each]
    assert [each["step"] for each in rounds] == [0, 1, 2, 3]


def test_a_federation_of_a_language_model_says_what_its_share_of_right_rows_is_called(
    lamina, tiny_language_model, tmp_path
):
    job = {
        **calls_job(tiny_language_model),
        "federation": {"clients": 2, "rounds": 1},
        "tracking": {"enabled": False},
        "output_dir": str(tmp_path / "out"),
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    shown = lamina("federate", tmp_path / "job.yaml", "--in-process")
    assert shown.exit_code == 0, shown.output
    assert "after step 2 of the stream: test exact match" in shown.stdout
    assert "accuracy" not in shown.stdout
    result = json.loads((tmp_path / "out" / "federated_result.json").read_text())
    assert result["measure"] == "exact_match"
    assert {"exact_match", "alone_exact_match"} <= result["clients"][0].keys()
    assert result["metrics"]["bound/central/average_exact_match"] >= 0
    assert not any("accuracy" in name for name in result["metrics"])
    facts = json.loads((tmp_path / "out" / "bundle" / "bundle.json").read_text())
    assert "test/average_exact_match" in facts["metrics"]


def test_the_global_model_can_be_asked_and_exported(lamina, federated, tmp_path):
    out = tmp_path / "out"
    done = lamina("federate", federated, "--in-process", "federation.bounds=false")
    assert "; the bundle" in done.stdout
    (tmp_path / "new").mkdir()
    Image.new("RGB", (8, 8), "white").save(tmp_path / "new" / "a.png")
    said = lamina("predict", out, tmp_path / "new", "--format", "jsonl")
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout)["label"] in {str(digit) for digit in range(10)}
    assert lamina("export", out, tmp_path / "exported").exit_code == 0
    assert (tmp_path / "exported" / "README.md").is_file()


def test_clients_that_keep_models_of_their_own_leave_no_bundle_and_it_is_said(lamina, federated):
    words = ["federation.bounds=false", "federation.aggregator.name=fedsa_lora"]
    done = lamina("federate", federated, "--in-process", *words)
    assert done.exit_code == 0, done.output
    assert "no bundle, as aggregator 'fedsa_lora' leaves each client a model of its" in done.stdout


def test_bounds_that_are_not_finite_are_said_beside_what_the_federation_reached(
    lamina, federated, tmp_path
):
    words = ["training.optimizer=sgd", "training.learning_rate=1e38"]
    shown = lamina("federate", federated, "--in-process", *words)
    assert shown.exit_code == 0, shown.output
    assert "bound of one learner on all rows failed: not finite: task 1" in shown.stdout
    assert "of 4 clients alone failed: not finite: task 1" in shown.stdout
    result = json.loads((tmp_path / "out" / "federated_result.json").read_text())
    assert result["metrics"]["refused/not finite"] > 0
    assert not [key for key in result["metrics"] if key.startswith("bound/")]
    tensors = load_file(tmp_path / "out" / "global.safetensors")
    assert all(torch.isfinite(each).all() for each in tensors.values())


def test_the_same_command_again_trains_no_round(lamina, federated):
    lamina("federate", federated, "--in-process", "federation.bounds=false")
    again = lamina("federate", federated, "--in-process", "federation.bounds=false")
    assert again.exit_code == 0
    assert not [line for line in again.stdout.splitlines() if line.startswith("round ")]


def test_a_job_without_a_federation_and_an_impossible_one_are_refused(lamina, job, federated):
    refused = lamina("federate", federated, "federation.aggregator.name=krumm")
    assert (refused.exit_code, "did you mean 'krum'?" in refused.output) == (2, True)
    refused = lamina("federate", federated, "federation=null")
    assert (refused.exit_code, "federation: missing" in refused.output) == (2, True)


def test_what_was_spent_is_shown_in_each_round_and_at_the_end(lamina, federated, tmp_path):
    pytest.importorskip("opacus")
    hidden = "federation.privacy={unit: example, clip: 1.0, noise_multiplier: 2.0}"
    shown = lamina(
        "federate",
        federated,
        "--in-process",
        hidden,
        "federation.bounds=false",
        "strategy={name: finetune}",
        "memory=null",
    )
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    rounds = [line for line in lines if line.startswith("round ")]
    assert rounds
    assert all(", epsilon " in line and "loss" not in line for line in rounds)
    assert any(line.startswith("epsilon ") and "whether a row" in line for line in lines)
    result = json.loads((tmp_path / "out" / "federated_result.json").read_text())
    spent = [row.get("epsilon", 0.0) for row in result["clients"]]
    assert max(spent) == result["metrics"]["privacy/epsilon"] > 0
    assert result["privacy"] == {"unit": "example", "delta": 1e-5}
