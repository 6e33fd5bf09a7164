"""What a person should know of a stream is printed once by every command, and kept."""

import json

import pytest
import yaml

from lamina.backbones import cpu
from watched import RAY, hosts_in_threads

CUT = "stream: 9 of 72 texts are longer than 12 tokens and are cut (backbone.max_length)"
ALIKE = "stream: 2 labels look like 1 and are read as one: 'Off ' (row 2)"


@pytest.fixture
def texts(tmp_path, tiny_bert_folder):
    """A job on 72 texts of two classes, of which some are long; one label is misspelt."""
    rows = []
    for number in range(36):
        for label in ("on", "off"):
            long = " please" * 20 if label == "on" and number % 4 == 0 else ""
            name = "Off " if (label, number) == ("off", 0) else label
            rows.append(f"turn it {label} {number}{long},{name}")
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]))
    mapping = {
        "name": "texts",
        "stream": {
            "name": "huggingface",
            "path": str(tmp_path / "rows.csv"),
            "text_column": "text",
            "alike": "merge",
        },
        "scenario": {"kind": "class_incremental", "num_tasks": 2, "limit_per_class": 100},
        "backbone": {"name": str(tiny_bert_folder), "max_length": 12},
        "adapter": {"kind": "lora", "rank": 2},
        "strategy": {"name": "finetune"},
        "training": {"epochs": 1, "batch_size": 16},
        "hosts": {"features_gb": 0},
        "tracking": {"enabled": False},
        "output_dir": str(tmp_path / "out"),
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(mapping))
    return path


def check_printed(done):
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines.count(CUT) == 1
    assert sum(line.startswith(ALIKE) for line in lines) == 1


def check_kept(notes):
    counts = {note["about"]: note for note in notes}
    assert (counts["cut_texts"]["texts"], counts["cut_texts"]["of"]) == (9, 72)
    assert counts["alike_labels"]["rows"] == 1


def test_a_run_prints_its_notes_and_keeps_them_in_its_result(lamina, texts, tmp_path):
    check_printed(lamina("run", texts))
    (result,) = (tmp_path / "out" / "run").glob("*/result.json")
    check_kept(json.loads(result.read_text())["notes"])


def test_a_federated_run_prints_its_notes_and_keeps_them_in_its_result(lamina, texts, tmp_path):
    federation = "federation={clients: 2, rounds: 1, bounds: false}"
    check_printed(lamina("federate", texts, "--in-process", federation))
    check_kept(json.loads((tmp_path / "out" / "federated_result.json").read_text())["notes"])


@pytest.mark.parametrize(("known", "is_slow"), [({"avx2"}, True), ({"avx512_bf16"}, False)])
def test_numbers_that_a_cpu_is_slow_at_are_one_line(lamina, texts, monkeypatch, known, is_slow):
    monkeypatch.setattr(cpu, "features", lambda: known)
    done = lamina("run", texts, "backbone.dtype=bfloat16")
    assert done.exit_code == 0, done.output
    line = "backbone.dtype: this CPU computes bfloat16 more slowly than float32"
    assert done.stdout.count(line) == is_slow
    assert not cpu.is_slow_at("float32")


@RAY[0]
@RAY[1]
def test_a_sweep_prints_its_notes_and_keeps_them_on_its_leaderboard(
    lamina, ray_cluster, texts, tmp_path
):
    space = "sweep.space={training.learning_rate: {grid_search: [0.001, 0.01]}}"
    with hosts_in_threads():
        check_printed(lamina("sweep", texts, space))
    rows = json.loads((tmp_path / "out" / "leaderboard.json").read_text())["trials"]
    assert len(rows) == 2
    for row in rows:
        check_kept(row["notes"])


def test_a_length_beyond_the_models_positions_is_refused(lamina, texts):
    refused = lamina("run", texts, "backbone.max_length=99999")
    assert refused.exit_code == 2
    assert "backbone.max_length: 99999 is more than this model can take" in refused.output
