"""The commands, for real."""

import json
import re

import pytest

from lamina.strategies import strategy_names
from watched import RAY, hosts_in_threads


def test_strategies_lists_each_with_what_goes_with_it_in_eighty_columns(lamina):
    shown = lamina("strategies")
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    cards = json.loads(lamina("strategies", "--json").stdout)
    assert [card["name"] for card in cards] == strategy_names()
    for card in cards:
        (number,) = [n for n, each in enumerate(lines) if each.startswith(f"  {card['name']} ")]
        assert lines[number].split()[:2] == [card["name"], str(card["year"])]
        method = card["summary"].partition("): ")[2]
        assert method.startswith(lines[number + 1].strip().removesuffix(" ..."))
        assert card["summary"].endswith(".")
        assert card["paper"]
        assert card["scenarios"]
    assert max(map(len, lines)) <= 80
    er = next(card for card in cards if card["name"] == "er")
    assert er["needs_memory"]
    assert er["settings"] == {"replay_size": 32}
    (line,) = [each for each in lines if each.startswith("  er ")]
    assert "any,none | text,image+memory" in line
    *_, of_tokens, _ = shown.stdout.split("\n\n")
    assert {"er", "olora", "ranpac"} & set(re.findall(r"\w+", of_tokens)) == {"er", "olora"}


def test_a_strategys_card_is_its_files_and_what_a_job_may_say(lamina):
    shown = lamina("strategies", "ewc").stdout
    assert shown.startswith("EWC (Kirkpatrick et al., 2017")
    assert "Overcoming catastrophic forgetting in neural networks (2017)" in shown
    assert "strength=1000.0" in shown
    wrong = lamina("strategies", "ewv")
    assert wrong.exit_code == 2
    assert "did you mean 'ewc'?" in wrong.output


@pytest.fixture
def only_run(tmp_path):
    """The folder of the one run that was made."""

    def find():
        (folder,) = (tmp_path / "out" / "run").iterdir()
        return folder

    return find


def test_a_run_prints_its_tasks_and_leaves_its_results(lamina, job, only_run, tmp_path):
    done = lamina("run", job, "strategy.name=lwf", "seed=3")
    assert done.exit_code == 0, done.output
    out = done.stdout.splitlines()
    assert "memory changes nothing: strategy 'lwf' replays nothing" in out
    assert "lwf-lora-seed3: class_incremental on digits, 2 tasks" in out
    assert [line.split(":")[0] for line in out if line.startswith("task ") and ":" in line] == [
        "task 1/2 task 1",
        "task 2/2 task 2",
    ]
    folder = only_run()
    assert folder.name.startswith("lwf-")
    result = json.loads((folder / "result.json").read_text())
    assert (result["strategy"], result["adapter"]) == ("lwf", "lora")
    assert result["settings"] == {"seed": 3}
    assert result["scenario"] == "class_incremental"
    assert 0 <= result["average_accuracy"] <= 1
    assert (folder / "bundle" / "adapters" / "main" / "adapter_model.safetensors").is_file()
    assert f"{result['average_accuracy']:.3f}" in done.stdout
    again = lamina("report", tmp_path / "out")
    assert again.exit_code == 0
    assert f"{result['average_accuracy']:.3f}" in again.stdout
    assert "class_incremental" in again.stdout


def test_a_run_in_a_folder_of_any_name_is_reported(lamina, job, tmp_path):
    folder = tmp_path / "100% of a#b? ä"
    words = (f"output_dir={folder}", "strategy.name=ncm", "tracking.enabled=true")
    done = lamina("run", job, *words)
    assert done.exit_code == 0, done.output
    assert (folder / "mlflow.db").is_file()
    assert "class_incremental" in lamina("report", folder).stdout


def test_runs_on_other_data_are_in_tables_of_their_own(lamina, job, tmp_path):
    for limit in (8, 9):
        given = ("strategy.name=ncm", f"scenario.limit_per_class={limit}")
        assert lamina("run", job, *given).exit_code == 0
    assert lamina("report", tmp_path / "out").stdout.count("lone runs on data") == 2


def test_the_same_run_twice_is_the_same_matrix_to_the_last_bit(lamina, job, only_run):
    matrices = []
    for _ in range(2):
        assert lamina("run", job, "seed=3", "adapter.dropout=0.1").exit_code == 0
        matrices.append((only_run() / "accuracy_matrix.json").read_bytes())
    assert matrices[0] == matrices[1]
    assert lamina("run", job, "seed=4").exit_code == 0


def test_a_run_that_breaks_off_leaves_no_run_open(lamina, job, only_run, monkeypatch):
    from lamina.training.scorecard import Scorecard

    def interrupted(self, task):
        raise KeyboardInterrupt

    # A person's Ctrl-C, at a moment of our choosing.
    monkeypatch.setattr(Scorecard, "evaluate", interrupted)
    stopped = lamina("run", job)
    assert stopped.exit_code == 130
    assert stopped.stderr == (
        "stopped by SIGINT; the same command goes on from here, or `lamina resume OUTPUT_DIR`\n"
    )
    events = [json.loads(line) for line in (only_run() / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["start_trial", "data", "finish_trial"]
    assert events[-1]["status"] == "stopped"


@RAY[0]
@RAY[1]
def test_a_sweep_ranks_its_trials_and_report_shows_them_again(lamina, ray_cluster, job, tmp_path):
    with hosts_in_threads():
        done = lamina("sweep", job, "hosts.count=1")
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "out" / "leaderboard.json").read_text())["trials"]
    assert sorted(row["name"] for row in rows) == [
        "er-lora-lr0.001",
        "er-lora-lr0.01",
        "simplecil",
    ]
    scores = [row["validation_average_accuracy"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert all(row["status"] == "finished" for row in rows)
    assert "training.learning_rate does not vary for simplecil" in done.stdout
    assert "[3/3]" in done.stdout
    assert "class_incremental on digits" in done.stdout
    table = [line for line in done.stdout.splitlines() if line.startswith(("1", "2", "3"))]
    assert [line.split()[1] for line in table] == [row["strategy"] for row in rows]
    again = lamina("report", tmp_path / "out").stdout
    assert all(line in again for line in table)
