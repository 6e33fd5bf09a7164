"""platform/README.md says which tuners of PEFT work; here each of them is tried again."""

import json
from pathlib import Path

import peft
import pytest
from click.testing import CliRunner

import peft_table
from lamina.adapters import kind_class
from lamina.cli import main
from lamina.registry import InputError

README = Path(__file__).parents[2] / "platform" / "README.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("peft")
    peft_table.make_files(path)
    return path


@pytest.mark.parametrize("case", peft_table.CASES, ids=str)
def test_a_tuner_does_what_the_table_says(case, folder):
    assert peft_table.row(case, peft_table.verdict(case, folder)) in README.read_text()


def test_the_table_has_every_tuner_of_the_installed_peft():
    text = README.read_text()
    assert f"peft {peft.__version__}" in text
    assert all(f"\n| {each.value} | " in text for each in peft.PeftType)


def test_a_tuner_of_the_readme_runs_from_the_command_line(folder):
    case = peft_table.Case("VERA", {"r": 64})
    done = CliRunner().invoke(main, ["run", str(peft_table.job_file(case, folder))])
    assert done.exit_code == 0, done.output
    (saved,) = (folder / "out").glob("run/*/bundle/adapters/main/adapter_config.json")
    assert json.loads(saved.read_text())["peft_type"] == "VERA"


@pytest.mark.parametrize(
    ("peft_type", "config", "message"),
    [
        ("vera", {}, "adapter.peft_type: 'vera' is unknown; did you mean 'VERA'"),
        ("LORRA", {}, "adapter.peft_type: 'LORRA' is unknown; did you mean 'LORA'"),
        ("LOHA", {"ranc": 3}, "adapter.config: 'ranc' is unknown; did you mean"),
        ("LOHA", {"r": "many"}, "adapter.config: PEFT refuses it: "),
        ("VERA", {"target_modules": ["qurey"]}, "adapter.config: PEFT refuses it: "),
        ("TRAINABLE_TOKENS", {}, "adapter.config: TRAINABLE_TOKENS as configured trains nothing"),
    ],
)
def test_a_job_with_a_mistake_in_it_is_refused_in_one_line(peft_type, config, message, folder):
    job = peft_table.job_file(peft_table.Case(peft_type, config), folder)
    done = CliRunner().invoke(main, ["run", str(job)])
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(message)


@pytest.mark.parametrize(
    ("peft_type", "ends"),
    [
        ("LN_TUNING", {"LayerNorm"}),
        ("IA3", {"key", "value", "output.dense"}),
        ("VERA", {"query", "value"}),
        ("TRAINABLE_TOKENS", {"word_embeddings"}),
    ],
)
def test_each_tuner_finds_its_modules_by_itself(peft_type, ends, tiny_bert):
    config = {"token_indices": [5]} if peft_type == "TRAINABLE_TOKENS" else {}
    kind = kind_class("peft")(peft_type=peft_type, config=config)
    parameters = kind.overlay({}, tiny_bert).stand_in.module.named_parameters()
    trained = [name for name, each in parameters if each.requires_grad]
    assert trained
    assert [name for name in trained if not any(f".{end}." in name for end in ends)] == []


def test_what_could_only_work_in_part_is_refused_before_a_backbone_is_there():
    for peft_type in ("ADALORA", "LILY", "OSF", "POLY", "PVERA"):
        with pytest.raises(InputError, match=f"adapter.peft_type: {peft_type} is refused"):
            kind_class("peft")(peft_type=peft_type)
