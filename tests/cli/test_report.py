"""The leaderboard as a person sees it."""

import json
from io import StringIO

import pytest
from rich.console import Console

from finished_sweep import finished_sweep
from lamina.cli.report import show_leaderboard
from lamina.orchestration.store.event_recorder import EventRecorder
from lamina.tracking.base import CompositeTracker


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
        "trial": f"{strategy}-{rank}",
        "score": 0.8,
        "stored_parameters": 123456,
        "memory_bytes": 0,
        **changes,
    }


def shown(*rows, width=80, trials=None):
    out = StringIO()
    show_leaderboard(Console(file=out, width=width, highlight=False), rows, "job", trials)
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
    assert lines[-2:] == ["er-bottleneck, other failed: ValueError: no good", "  Traceback"]


def test_a_broken_trial_shows_where_it_broke_and_the_file_with_all_of_it(tmp_path):
    recorder = EventRecorder(CompositeTracker([]), tmp_path)
    error = 'Traceback\n  File "a.py", line 1\n  File "er.py", line 7\n    step()\nValueError: no'
    broken = row(1, "er", status="failed", error=error)
    recorder.record({"event": "failed", "trial": broken["trial"], "error": error}, [])
    lines = shown(broken, width=200, trials=tmp_path).splitlines()
    path = tmp_path / broken["trial"] / "error.txt"
    assert lines[-3:] == ['    File "er.py", line 7', "      step()", f"  all of it: {path}"]
    assert path.read_text() == error + "\n"


@pytest.fixture
def swept(tmp_path):
    """The folder of a made-up sweep."""
    return finished_sweep(tmp_path / "out")


def test_settings_over_seeds_stand_below_the_trials_on_80_columns():
    trials = [
        row(place, "coda_prompt", settings={"memory.size": 200, "seed": place})
        for place in (1, 2, 3)
    ]
    text = shown(*trials, row(4, "simplecil"))
    lines = text.split("Over seeds", 1)[1].splitlines()
    table = lines[[line.startswith("#") for line in lines].index(True) :]
    assert table[0].split()[:4] == ["#", "strategy", "adapter", "settings"]
    assert "0.812 ± 0.000 [0.812, 0.812] -0.010 ± 0.000" in table[1]
    assert all(len(line) <= 80 for line in table)
    assert "Over seeds" not in shown(row(1, "er"), row(2, "ewc"))


def test_report_prints_the_table_and_writes_the_page_beside_the_results(lamina, swept):
    said = lamina("report", swept)
    assert said.exit_code == 0
    assert "er-seed" not in said.stdout
    assert "Over seeds" in said.stdout
    assert "ewc-seed1-lr0.1 failed: ValueError: no <b>good</b>" in said.stdout
    assert f"{swept / 'report.html'}: " in said.stdout
    assert (swept / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_a_format_says_what_is_printed_and_a_file_where_it_goes(lamina, swept, tmp_path):
    assert json.loads(lamina("report", swept, "--format", "json").stdout)[0]["name"] == "rooms"
    assert lamina("report", swept, "-f", "csv").stdout.startswith("rank,strategy,")
    assert not (swept / "report.html").exists()
    for name, beginning in {
        "table.tex": "% needs",
        "table.md": "rooms: class_incremental",
        "table.CSV": "rank,",
        "table.txt": "\nrooms: class_incremental",
        "deep/page.html": "<!DOCTYPE html>",
    }.items():
        said = lamina("report", swept, "-o", tmp_path / name)
        assert said.exit_code == 0, said.stderr
        assert (tmp_path / name).read_text().startswith(beginning)
    assert lamina("report", swept, "-f", "html").stdout == f"{swept / 'report.html'}\n"


def test_a_file_whose_name_says_no_format_is_refused(lamina, swept, tmp_path):
    wrong = lamina("report", swept, "-o", tmp_path / "table.docx")
    assert wrong.exit_code == 2
    assert "allowed: .html," in wrong.stderr
    (tmp_path / "file").write_text("")
    taken = lamina("report", swept, "-o", tmp_path / "file" / "table.csv")
    assert taken.exit_code == 2
    assert "cannot be written" in taken.stderr


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
