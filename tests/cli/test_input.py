"""What is wrong with the input is one clear line, exit code 2, and nothing is started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import lamina as package


def lines(result):
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    return result.stderr.splitlines()


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["strategy.name=err"],
            "strategy.name: 'err' is unknown; did you mean 'er'? (allowed: acl,",
        ),
        (["training.epoch=2"], "training.epoch: unknown key; did you mean 'epochs'?"),
        (
            ["training.epochs=many"],
            "training.epochs: 'many' is not allowed (allowed: a whole number)",
        ),
        (["epochs"], "override: 'epochs' is not KEY=VALUE"),
        (["adapter.rank=0"], "adapter.rank: 0 is not positive"),
        (["backbone.name=./nowhere"], "backbone.name: there is no folder './nowhere'"),
        (
            ["backbone.name=minilm_l6"],
            "backbone.name: 'minilm_l6' is unknown; did you mean 'minilm'?",
        ),
        (["backbone.name=minilm"], "backbone.name: 'minilm' reads texts, but the stream 'digits'"),
        (
            ["adapter.targets=[qproj]"],
            "adapter.targets: 'qproj' is unknown; did you mean 'q_proj'?",
        ),
        (["scenario.num_tasks=11"], "scenario.num_tasks: 11 is more than there are classes"),
        (
            ["tracking={enabled: true, mlflow_uri: 'ftp://x'}"],
            "tracking.mlflow_uri: 'ftp://x' is neither",
        ),
    ],
)
@pytest.mark.parametrize("command", ["run", "sweep"])
def test_each_mistake_is_one_line(lamina, job, tmp_path, command, overrides, line):
    (said,) = lines(lamina(command, job, *overrides))
    assert said.startswith(line), said
    assert not (tmp_path / "out").exists(), "a run was opened"


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_several_mistakes_are_a_line_each(lamina, job, command):
    said = lines(lamina(command, job, "seed=x", "training.epochs=y", "hosts.threads=0"))
    assert [line.partition(":")[0] for line in said] == ["training.epochs", "hosts.threads", "seed"]


def test_a_missing_file_names_the_nearest(lamina, job):
    (said,) = lines(lamina("run", job.with_name("jop.yaml")))
    assert said.startswith("job: no file ")
    assert "did you mean" in said


def test_an_empty_data_set_and_a_class_with_one_row_are_told_before_anything_starts(
    lamina, job, tmp_path
):
    empty = tmp_path / "empty.csv"
    empty.write_text("text,label\n")
    single = tmp_path / "single.csv"
    rows = "".join(f"some words {n},{'ab'[n % 2]}\n" for n in range(20))
    single.write_text(f"text,label\n{rows}just once,c\n")
    for path, words in ((empty, ("stream",)), (single, ("stream", "'c'", "1 row"))):
        stream = (
            f"stream={{name: huggingface, path: {path}, text_column: text, label_column: label}}"
        )
        (said,) = lines(lamina("sweep", job, stream, "backbone.name=minilm"))
        assert all(word in said for word in words), said


def test_a_bad_variant_is_named_before_ray_is_started(lamina, job):
    variants = "sweep.variants=[{strategy: {name: er}}, {strategy: {name: olora}, adapter: null}]"
    (said,) = lines(lamina("sweep", job, variants))
    assert said == (
        "sweep.variants, number 2: adapter: null does not go with strategy 'olora' (allowed: lora)"
    )


def test_a_report_of_nothing_is_one_line(lamina, tmp_path):
    (said,) = lines(lamina("report", tmp_path / "nothing"))
    assert said.startswith("RUN: ")
    assert "is not there" in said


def modules_after(*words):
    code = (
        "import sys\n"
        "from lamina.cli import main\n"
        f"try:\n    main({[str(word) for word in words]!r})\n"
        "except SystemExit as end:\n    code = end.code\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        "print('MODULES', code, *sorted(names & {'ray', 'mlflow', 'torch', 'transformers'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])},
    )
    return done.stdout.splitlines()[-1].split()[1:]


def test_ray_and_mlflow_are_imported_only_by_what_uses_them(job):
    code, *modules = modules_after("sweep", job, "adapter.targets=[qproj]")
    assert code == "2"
    assert modules == ["torch", "transformers"]


def test_a_command_to_a_sweep_from_another_terminal_loads_no_torch(tmp_path):
    (tmp_path / "store").mkdir()
    code, *modules = modules_after("pause", tmp_path, "er")
    assert code == "2"
    assert modules == ["ray"]
