"""`lamina sweep JOB --plan`: what is going to happen, and what it will cost, without doing it."""

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml

from lamina.config import estimate
from lamina.training import pace, packing_size
from lamina.training.stepper import Stepper

JOBS = Path(__file__).parents[2] / "jobs"
FAMILIES = sorted(each.stem for each in (JOBS / "families").glob("*.yaml"))


def test_a_plan_says_who_is_packed_and_prints_its_seconds_as_a_range(lamina, job, tmp_path):
    result = lamina("sweep", job, "--plan", "hosts.count=2")
    assert result.exit_code == 0, result.output
    for words in ("er", "simplecil", "no: takes no step", "expected: total", "On 2 hosts"):
        assert words in result.output
    expected = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert all(0 <= low <= high for low, high in expected.values())
    assert expected["total"][0] < expected["total"][1]
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["plan.json"]


@pytest.mark.parametrize(
    ("section", "given"),
    [("scheduler", "{name: ashaa}"), ("scheduler", "{name: pbt}"), ("searcher", "{name: optunaa}")],
)
def test_a_search_that_the_sweep_would_refuse_has_no_plan(lamina, job, section, given):
    refused = lamina("sweep", job, "--plan", f"sweep.{section}={given}")
    assert refused.exit_code == 2
    assert f"sweep.{section}." in refused.stderr
    assert "Cohorts" not in refused.stdout


def test_a_second_plan_measures_nothing_and_says_the_same(lamina, job, tmp_path):
    plans = []
    for _ in range(2):
        assert lamina("sweep", job, "--plan").exit_code == 0
        plans.append(json.loads((tmp_path / "out" / "plan.json").read_text()))
    assert all(plans[0][name] == plans[1][name] for name in ("training", "evaluation", "features"))


@pytest.fixture
def calls(tmp_path, tiny_language_model):
    """A language model that six strategies teach, two of which write rows, under two kinds of
    adapter."""
    mixture = {"kind": "lora_mixture", "experts": 2, "rank": 2}
    variants = [
        {"strategy": {"name": "finetune"}},
        {"strategy": {"name": "er", "replay_size": 4}},
        {"strategy": {"name": "lamol", "longest": 8}},
        {"strategy": {"name": "ssr", "longest": 8, "attempts": 4}},
        {"strategy": {"name": "loramoe", "replay_size": 4}, "adapter": mixture},
        {"strategy": {"name": "cl_moe"}, "adapter": mixture},
    ]
    mapping = {
        "stream": {
            "name": "assistant_calls",
            "tasks": ["lights", "climate", "timers"],
            "sentences_per_intent": 8,
        },
        "scenario": {"kind": "domain_incremental"},
        "backbone": {"name": str(tiny_language_model)},
        "adapter": {"kind": "lora", "rank": 2, "layers": [-1]},
        "strategy": {"name": "finetune"},
        "memory": {"policy": "class_balanced", "size": 8},
        "training": {"epochs": 9, "batch_size": 4},
        "sweep": {"variants": variants, "space": {"seed": {"grid_search": [0, 1]}}},
        "hosts": {"count": 1},
        "tracking": {"enabled": False},
        "output_dir": str(tmp_path / "out"),
    }
    path = tmp_path / "calls.yaml"
    path.write_text(yaml.safe_dump(mapping))
    return path


@pytest.mark.parametrize(
    ("noisy", "slow", "learned"),
    [(0.0, float("inf"), 2), (float("inf"), float("inf"), 4), (0.0, -1.0, 1)],
    ids=["once", "again where it is fast", "one task where it is slow"],
)
def test_a_plan_takes_few_steps_of_each_strategy_and_packs_each_kind_of_adapter_once(
    lamina, calls, monkeypatch, tmp_path, noisy, slow, learned
):
    """However many epochs, seeds and tasks there are; nor does it read more rows of the stream."""
    monkeypatch.setenv("LAMINA_CACHE", str(tmp_path / "cache"))
    steps: Counter[str] = Counter()
    packed, read = [], []
    step, pack, cut = Stepper.step, packing_size.packing_size, estimate.piece_of

    def count_step(stepper, batch, replay):
        steps[type(stepper.strategy).__name__] += 1
        return step(stepper, batch, replay)

    def count_pack(backbone, kind, *rest):
        packed.append(kind.name)
        return pack(backbone, kind, *rest)

    def note_piece(*asked):
        read.append(cut(*asked))
        return read[-1]

    monkeypatch.setattr(Stepper, "step", count_step)
    monkeypatch.setattr(packing_size, "packing_size", count_pack)
    monkeypatch.setattr(estimate, "piece_of", note_piece)
    monkeypatch.setattr(pace, "NOISY", noisy)
    monkeypatch.setattr(pace, "SLOW", slow)
    result = lamina("sweep", calls, "--plan")
    assert result.exit_code == 0, result.output
    names = {"Finetune", "ER", "LAMOL", "SSR", "LoRAMoE", "CLMoE"}
    assert steps == dict.fromkeys(names, learned * pace.STEPS)
    assert sorted(packed) == ["lora", "lora_mixture"]
    assert {len(each.train) for piece in read for each in piece.experiences} == {4 * pace.STEPS}
    steps.clear()
    packed.clear()
    assert lamina("sweep", calls, "--plan", "training.epochs=3").exit_code == 0
    assert not steps
    assert not packed


@pytest.fixture
def sentences(tmp_path, tiny_bert_folder):
    """What makes any text job of the project small: four classes of six sentences, as a job to lay
    over."""
    rows = [
        f"{verb} the {noun} {when},{noun}"
        for noun in ("light", "door", "timer", "song")
        for verb in ("start", "stop")
        for when in ("now", "later", "today please")
    ]
    data = tmp_path / "sentences.csv"
    data.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    columns = {"path": str(data), "text_column": "text", "label_column": "label"}
    small = {
        "stream": {"name": "huggingface", **columns},
        "scenario": {"kind": "class_incremental", "num_tasks": 2},
        "backbone": {"name": str(tiny_bert_folder)},
        "hosts": {"count": 1},
        "tracking": {"enabled": False},
        "output_dir": str(tmp_path / "out"),
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(small))
    return path


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_methods_can_be_planned(lamina, sentences, tmp_path, monkeypatch, family):
    monkeypatch.setattr(estimate, "PAIRS", 1)
    job = tmp_path / "family.yaml"
    # The ridges of RanPAC alone would take most of this test.
    text = (JOBS / "families" / f"{family}.yaml").read_text()
    job.write_text(text.replace("projection: 2000", "projection: 64"))
    result = lamina("sweep", job, sentences, "--plan")
    assert result.exit_code == 0, result.output
    assert "expected: total" in result.output
