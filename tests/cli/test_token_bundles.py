"""A language model's run from its job to its next task, and what its bundle cannot do yet."""

import json

import pytest
import yaml
from click.testing import CliRunner

from lamina.cli import main
from language_models import write_model


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """The output folder of a tiny language model that has learned two tasks of calls by replay."""
    folder = tmp_path_factory.mktemp("calls")
    job = {
        "stream": {
            "name": "assistant_calls",
            "tasks": ["lights", "climate"],
            "sentences_per_intent": 6,
        },
        "scenario": {"kind": "domain_incremental", "limit_per_class": 3},
        "backbone": {"name": str(write_model("llama", folder / "model"))},
        "adapter": {"kind": "lora", "rank": 2},
        "strategy": {"name": "er", "replay_size": 4},
        "memory": {"policy": "class_balanced", "size": 8},
        "training": {"epochs": 1, "batch_size": 8},
        "tracking": {"enabled": False},
        "output_dir": str(folder / "out"),
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    done = lamina("run", path)
    assert done.exit_code == 0, done.output
    return folder / "out"


def lamina(*words):
    return CliRunner().invoke(main, [str(word) for word in words], input="turn it on\n")


def test_a_run_leaves_a_bundle_without_classes_or_their_predictions(calls):
    (bundle,) = calls.glob("run/*/bundle")
    facts = json.loads((bundle / "bundle.json").read_text())
    assert facts["class_names"] == []
    assert [each["name"] for each in facts["tasks"]] == ["lights", "climate"]
    assert not (bundle / "predictions.csv").exists()


def test_it_learns_one_more_task(calls, tmp_path):
    done = lamina("learn", calls, "stream.tasks=['media']", "-o", tmp_path / "next")
    assert done.exit_code == 0, done.output
    facts = json.loads((tmp_path / "next" / "bundle.json").read_text())
    assert [len(row) for row in facts["test"]] == [3, 3, 3]
    assert None not in facts["test"][-1]


@pytest.mark.parametrize("words", [("predict", "-"), ("export", "out"), ("serve",)])
def test_what_it_cannot_do_yet_is_one_line(calls, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command, *more = words
    done = lamina(command, calls, *more)
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert "answers with texts (allowed: classes)" in line
    assert not (tmp_path / "out").exists()
