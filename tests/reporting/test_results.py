"""What is read of an output folder."""

import json
from shutil import copytree

import pytest

from finished_sweep import TASKS, results
from lamina.evaluation.leaderboard import leaderboard
from lamina.evaluation.result_files import read_result, write_result
from lamina.registry import InputError
from lamina.reporting.results import read_boards


def test_a_sweep_is_read_with_its_jobs_name_its_matrices_and_its_metrics(board):
    assert board.name == "rooms"
    assert board.title.startswith("rooms: class_incremental on assistant, 3 tasks, minilm.")
    best = board.trials[0]
    assert best.row["rank"] == 1
    assert best.tasks == TASKS
    assert best.matrices["test"][1][2] is None
    curve = best.curve("test/average_accuracy")
    assert len(curve) == 3
    assert curve[-1] == pytest.approx(best.row["average_accuracy"])
    assert best.curve("test/forgetting")[0] is None


def test_joint_training_is_a_bound_with_its_row_at_the_end_and_the_names_of_all_tasks(board):
    joint = [trial for trial in board.trials if trial.row["strategy"] == "joint"]
    assert board.bounds == {trial.row["trial"] for trial in joint}
    assert all(trial.tasks == TASKS for trial in joint)
    assert joint[0].matrices["test"][0] == [None, None, None]
    assert None not in joint[0].matrices["test"][2]


def test_a_trial_that_was_stopped_after_one_task_is_no_bound(board):
    assert all("ewc" not in trial for trial in board.bounds)


def test_a_stopped_trial_is_held_against_those_that_got_as_far(board):
    (stopped,) = (trial for trial in board.trials if trial.row["status"] == "stopped")
    stood = board.standing(stopped)
    # Behind all of er and ewc at the lower rate; ahead of the two with a lower seed, of which one
    # failed before its first task. Joint training has no second step.
    assert (stood.tasks, stood.place, stood.of) == (2, 10, 11)
    assert stood.score == pytest.approx(stopped.row["score"])
    (failed,) = (trial for trial in board.trials if trial.row["status"] == "failed")
    assert board.standing(failed) is None


def test_what_a_picture_shows_is_settings_over_finished_seeds(board):
    entries = {entry.name: entry for entry in board.entries}
    assert len(entries) == 5
    assert len(entries["er lora, lr 0.01"].trials) == 3
    assert len(entries["ewc lora, lr 0.1"].trials) == 1
    assert entries["joint lora, lr 0.01"].is_bound


def test_a_step_that_was_logged_again_counts_as_it_was_logged_last(folder, tmp_path):
    run = copytree(folder, tmp_path / "again")
    events = (run / "events.jsonl").read_text().splitlines()[:-1]
    again = json.loads(events[1])
    events.append(json.dumps({**again, "test/average_accuracy": 0.125}))
    (run / "events.jsonl").write_text("\n".join(events) + "\n")
    (board,) = read_boards(run)
    (trial,) = (each for each in board.trials if each.row["trial"] == again["trial"])
    assert trial.curve("test/average_accuracy")[again["step"]] == 0.125


def test_lone_runs_are_boards_of_their_own_by_the_rows_they_learned_from(folder, tmp_path):
    run = copytree(folder, tmp_path / "lone")
    for number, data in enumerate(["a", "a", "b"]):
        (row,) = leaderboard(results()[number : number + 1])
        place = run / "run" / row["trial"]
        place.mkdir(parents=True)
        write_result({**row, "data": data}, place)
    sweep, first, second = read_boards(run)
    assert sweep.name == "rooms"
    assert first.name == "lone, lone runs on data a"
    assert (len(first.trials), len(second.trials)) == (2, 1)
    assert [row["rank"] for row in first.rows] == [1, 2]
    assert first.rows[0]["score"] > first.rows[1]["score"]


def test_steps_have_numbers_where_streams_have_tasks_of_their_own(folder, tmp_path):
    run = copytree(folder, tmp_path / "orders")
    (path, *_) = sorted((run / "trials").glob("er-*/accuracy_matrix.json"))
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "tasks": document["tasks"][::-1]}))
    (board,) = read_boards(run)
    assert list(board.steps) == ["task 1", "task 2", "task 3"]


@pytest.mark.parametrize("name", ["leaderboard.json", "trials/er-*/accuracy_matrix.json"])
def test_a_file_of_another_version_is_refused_by_its_format(folder, tmp_path, name):
    run = copytree(folder, tmp_path / "old")
    (path, *_) = sorted(run.glob(name))
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(InputError, match=f"{path.name}' has the format 99 of another version"):
        read_boards(run)


def test_files_of_the_first_format_named_none_and_are_read(folder, tmp_path):
    run = copytree(folder, tmp_path / "first")
    (board,) = read_boards(run)
    for path in [run / "leaderboard.json", *run.glob("trials/*/accuracy_matrix.json")]:
        document = json.loads(path.read_text())
        del document["format"]
        path.write_text(json.dumps(document.get("trials", document)))
    (again,) = read_boards(run)
    assert again.rows == board.rows


@pytest.mark.parametrize("content", ["[1]", '[{"name": "er"}]', '{"format": 2}', "3"])
def test_a_leaderboard_that_is_json_and_none_is_one_line(tmp_path, content):
    (tmp_path / "leaderboard.json").write_text(content)
    with pytest.raises(InputError, match=r"RUN: .*leaderboard\.json'"):
        read_boards(tmp_path)


def test_the_result_of_a_lone_run_says_its_format_and_its_row_does_not(tmp_path):
    (row,) = leaderboard(results()[:1])
    write_result(row, tmp_path)
    assert read_result(tmp_path, "RUN") == {**row, "measure": "accuracy"}
    path = tmp_path / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(InputError, match=r"result\.json' has the format 99"):
        read_result(tmp_path, "RUN")


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no results"):
        read_boards(tmp_path)
    (tmp_path / "leaderboard.json").write_text("[")
    with pytest.raises(InputError, match="is not JSON"):
        read_boards(tmp_path)
