"""The leaderboard as a person sees it."""

import json
from io import StringIO

from rich.console import Console

from lamina.cli.report import show_leaderboard


def row(rank, strategy, **changes):
    return {
        "rank": rank,
        "strategy": strategy,
        "adapter": "bottleneck",
        "settings": {"training.learning_rate": 0.00123456, "memory.size": 200},
        "scenario": "class_incremental",
        "average_accuracy": 0.81234,
        "forgetting": -0.01,
        "validation_average_accuracy": 0.8,
        "trainable_parameters": 123456,
        "seconds": 31.25,
        "stream": "assistant",
        "num_tasks": 6,
        "tasks_done": 6,
        "backbone": "/models/some/encoder",
        "metric": "validation/average_accuracy",
        "status": "finished",
        "error": None,
        "name": f"{strategy}-bottleneck",
        **changes,
    }


def shown(*rows, width=80):
    out = StringIO()
    show_leaderboard(Console(file=out, width=width, highlight=False), rows, "job")
    return out.getvalue()


def test_no_name_and_no_number_is_cut_on_80_columns():
    text = shown(row(1, "simplecil"), row(2, "coda_prompt"))
    for word in ("simplecil", "coda_prompt", "bottleneck", "0.812", "-0.010", "123,456", "31.2"):
        assert word in text
    assert "…" not in text
    assert all(len(line) <= 80 for line in text.splitlines()[2:])


def test_the_scenario_and_what_is_ranked_by_stand_with_the_numbers():
    text = shown(row(1, "er"))
    assert "class_incremental on assistant, 6 tasks, encoder." in text
    assert "ranked by validation/average_accuracy" in text
    both = shown(row(1, "er"), row(2, "er", scenario="task_incremental"), width=120)
    assert "scenario" in both.splitlines()[2]
    assert both.splitlines()[4].split()[7] == "task_incremental"


def test_what_is_undefined_is_a_dash_and_a_broken_trial_says_why():
    broken = row(
        1,
        "er",
        average_accuracy=None,
        forgetting=None,
        adapter=None,
        settings={},
        num_tasks=None,
        tasks_done=0,
        status="failed",
        error="Traceback\nValueError: no good",
    )
    other = {**broken, "name": "other", "rank": 2}
    lines = shown(broken, other, width=120).splitlines()
    assert lines[3].split()[:5] == ["1", "er", "-", "-", "-"]
    assert lines[3].rstrip().endswith("failed in its first task")
    assert lines[-1] == "er-bottleneck, other failed: ValueError: no good"


def test_report_names_the_output_folder_that_was_meant(lamina, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "quickstart"
    folder.mkdir(parents=True)
    (folder / "leaderboard.json").write_text(json.dumps([{**row(1, "er"), "mlflow_uri": None}]))
    assert "er" in lamina("report", "runs/quickstart").stdout
    wrong = lamina("report", "runs/quickstrat")
    assert wrong.exit_code == 2
    assert "did you mean 'runs/quickstart'?" in wrong.stderr
    (folder / "leaderboard.json").write_text("[")
    assert "is not JSON" in lamina("report", "runs/quickstart").stderr
