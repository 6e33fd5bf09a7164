"""What the recorder makes of a sweep's reports."""

import json

from lamina.orchestration.store.event_recorder import (
    EventRecorder,
    TrialReports,
    best_of,
    write_curves,
    write_matrix,
)
from lamina.tracking import plots


class Noted:
    """A tracker that keeps what it is told."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *given, **more: self.calls.append((name, *given))


def reports_of(*accuracies, num_tasks=2):
    return [
        {
            "task": task,
            "task_name": f"room {task}",
            "num_tasks": num_tasks,
            "validation": [value] * (task + 1),
            "test": [value] * (task + 1),
            "metrics": {"validation/average_accuracy": value, "test/average_accuracy": value / 2},
            "done": task == num_tasks - 1,
        }
        for task, value in enumerate(accuracies)
    ]


TRIALS = [
    TrialReports("er-1", "er", reports_of(0.9, 0.8)),
    TrialReports("lwf-1", "lwf", reports_of(0.7)),
    TrialReports("queued-1", "queued", []),
]


def started(recorder, *trials, **sweep):
    """A sweep has asked for these trials."""
    begin = {"event": "sweep_started", "trial": None, "name": "s", "params": {"sweep": sweep}}
    recorder.record(begin, [])
    for each in trials:
        event = {"event": "submitted", "trial": each.trial, "name": each.name, "mapping": {}}
        recorder.record(event, [])


def chosen(trial, **metrics):
    """A trial that has learned its one task, with these metrics."""
    (report,) = reports_of(0.0, num_tasks=1)
    values = {
        f"{key.removesuffix('_acc')}/average_accuracy": value for key, value in metrics.items()
    }
    return TrialReports(trial, trial, [{**report, "metrics": values}])


def test_the_end_of_a_sweep_leaves_a_picture_of_all_trials_and_the_best_of_them(tmp_path):
    tracker = Noted()
    recorder = EventRecorder(tracker, tmp_path / "trials")
    started(recorder, *TRIALS)
    tracker.calls.clear()
    recorder.record({"event": "sweep_finished", "trial": None, "status": "finished"}, TRIALS)
    pictures = [tmp_path / f"average_accuracy_{part}.png" for part in ("validation", "test")]
    assert all(each.stat().st_size > 10_000 for each in pictures)
    assert tracker.calls == [
        *(("artifact", None, each) for each in pictures),
        ("log", None, best_of(TRIALS)),
        ("finish_sweep", "finished"),
    ]


def test_only_trials_that_learned_every_task_count_for_the_best():
    assert best_of(TRIALS) == {
        "sweep/finished_trials": 1.0,
        "sweep/best_validation_average_accuracy": 0.8,
        "sweep/best_test_average_accuracy": 0.4,
    }
    assert best_of(TRIALS[1:]) == {"sweep/finished_trials": 0.0}


def test_joint_training_has_its_row_at_the_last_task_and_is_a_level_in_the_picture(
    tmp_path, monkeypatch
):
    joint = reports_of(0.9, 0.8)[1:]
    path, *_ = write_matrix(tmp_path / "joint", joint, "joint", draws=False)
    document = json.loads(path.read_text())
    assert document["tasks"] == ["task 1", "room 1"]
    assert document["test"] == [[None, None], [0.8, 0.8]]

    drawn = {}
    monkeypatch.setattr(plots, "draw_curves", lambda path, **given: drawn.update(given["curves"]))
    write_curves(tmp_path, [*TRIALS[:2], TrialReports("joint-1", "joint", joint)])
    assert {name: curve.num_tasks for name, curve in drawn.items()} == {
        "er": 2,
        "lwf": 2,
        "joint": 1,
    }
    assert drawn["lwf"].is_stopped
    assert not drawn["joint"].is_stopped


def test_a_single_trial_is_not_compared(tmp_path):
    assert write_curves(tmp_path, TRIALS[1:]) == []


def test_the_test_value_of_the_best_is_of_the_trial_that_validation_chose():
    trials = [
        chosen("a", validation_acc=0.9, test_acc=0.2),
        chosen("b", validation_acc=0.8, test_acc=0.99),
    ]
    assert best_of(trials)["sweep/best_test_average_accuracy"] == 0.2
    assert best_of(trials)["sweep/best_validation_average_accuracy"] == 0.9


def test_the_best_is_chosen_by_the_metric_of_the_sweep(tmp_path):
    tracker = Noted()
    recorder = EventRecorder(tracker, tmp_path / "trials")
    trials = [
        chosen("a", validation_acc=0.9, test_acc=0.2),
        chosen("b", validation_acc=0.8, test_acc=0.3),
    ]
    started(recorder, *trials, metric="validation/average_accuracy", mode="min")
    recorder.record({"event": "sweep_finished", "trial": None, "status": "finished"}, trials)
    (logged,) = [call[2] for call in tracker.calls if call[:2] == ("log", None)]
    assert logged["sweep/best_test_average_accuracy"] == 0.3


def test_an_undefined_score_is_never_the_best_and_ties_go_as_on_the_leaderboard():
    undefined = chosen("a", validation_acc=float("nan"), test_acc=0.1)
    tied = [chosen("c", validation_acc=0.5, test_acc=0.3), chosen("b", validation_acc=0.5)]
    tied[1].reports[0]["metrics"]["test/average_accuracy"] = 0.4
    assert best_of([undefined, *tied])["sweep/best_test_average_accuracy"] == 0.4


def test_trials_of_an_earlier_sweep_are_no_part_of_this_one(tmp_path):
    tracker = Noted()
    recorder = EventRecorder(tracker, tmp_path / "trials")
    old = chosen("old", validation_acc=1.0, test_acc=1.0)
    new = chosen("new", validation_acc=0.5, test_acc=0.5)
    started(recorder, old)
    started(recorder, new)
    recorder.record({"event": "sweep_finished", "trial": None, "status": "finished"}, [old, new])
    logged = [call[2] for call in tracker.calls if call[:2] == ("log", None)]
    assert logged == [best_of([new])]


def test_a_trials_matrix_is_drawn_under_its_own_name(tmp_path):
    tracker = Noted()
    recorder = EventRecorder(tracker, tmp_path)
    recorder.record({"event": "finished", "trial": "er-12", "artifacts": None}, TRIALS[:1])
    names = [call[2].name for call in tracker.calls if call[0] == "artifact"]
    assert names == [
        "accuracy_matrix.json",
        "accuracy_matrix_validation.png",
        "accuracy_matrix_test.png",
    ]
    assert tracker.calls[-1] == ("finish_trial", "er-12", "finished")
