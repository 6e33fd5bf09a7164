"""What the recorder makes of a sweep's reports."""

import json

from lamina.orchestration.store.event_recorder import (
    DRAWN,
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


JOB = {
    "strategy": {"name": "er"},
    "adapter": {"kind": "lora"},
    "memory": {"policy": "ring", "size": 20},
    "stream": {"name": "assistant"},
    "scenario": {"kind": "class_incremental"},
    "backbone": {"name": "minilm"},
    "seed": 3,
    "learned_from": {"stream": "0123456789"},
}
DATA = {
    "name": "assistant",
    "digest": "0123456789",
    "source": "assistant",
    "modality": "text",
    "scenario": "class_incremental",
    "tasks": [
        {"name": "lights", "classes": ["on", "off"], "rows": {"train": 8, "validation": 1}},
        {"name": "doors", "classes": ["open"], "rows": {"train": 4, "validation": 1}},
    ],
}


def started(recorder, *trials, **sweep):
    """A sweep has asked for these trials."""
    begin = {"event": "sweep_started", "trial": None, "name": "s", "params": {"sweep": sweep}}
    recorder.record(begin, [])
    for each in trials:
        event = {"event": "submitted", "trial": each.trial, "name": each.name, "mapping": JOB}
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
    parts = ("validation", "test")
    matrices = [tmp_path / "trials" / "er-1" / f"accuracy_matrix_{part}.png" for part in parts]
    assert all(each.stat().st_size > 10_000 for each in (*pictures, *matrices))
    assert tracker.calls == [
        *(("artifact", None, each) for each in pictures),
        *(("artifact", "er-1", each) for each in matrices),
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


def test_only_the_best_trials_of_a_sweep_are_drawn(tmp_path):
    tracker = Noted()
    recorder = EventRecorder(tracker, tmp_path)
    trials = [chosen(f"t{rank}", validation_acc=1 - rank / 10) for rank in range(DRAWN + 1)]
    started(recorder, *trials)
    for each in trials:
        recorder.record({"event": "finished", "trial": each.trial, "artifacts": None}, [each])
    assert not list(tmp_path.glob("*/*.png"))
    recorder.record({"event": "sweep_finished", "trial": None, "status": "finished"}, trials)
    drawn = {path.parent.name for path in tmp_path.glob("*/*.png")}
    assert drawn == {each.trial for each in trials[:DRAWN]}
    said = {call[1] for call in tracker.calls if call[0] == "artifact" and call[2].suffix == ".png"}
    assert said - {None} == drawn


def test_runs_say_what_they_are_and_what_their_tasks_are_called(tmp_path):
    tracker = Noted()
    recorder = EventRecorder(tracker, tmp_path / "trials")
    begin = {"event": "sweep_started", "trial": None, "name": "voice", "params": {}, "data": [DATA]}
    recorder.record(begin, [])
    recorder.record({"event": "submitted", "trial": "er-1", "name": "er", "mapping": JOB}, [])
    (sweep,) = [call[3] for call in tracker.calls if call[0] == "start_sweep"]
    (trial,) = [call[4] for call in tracker.calls if call[0] == "start_trial"]
    assert "assistant (class_incremental, 2 tasks, 14 rows)" in sweep
    assert trial.splitlines()[0] == (
        "Strategy **er**, adapter lora, memory of 20 (ring), on assistant (class_incremental), "
        "backbone minilm, seed 3."
    )
    assert "00 lights, 01 doors" in trial
    assert [call[1:] for call in tracker.calls if call[0] == "data"] == [
        (None, DATA),
        ("er-1", DATA),
    ]
    (named,) = json.loads((tmp_path / "classes.json").read_text())
    assert named["tasks"][0] == {"name": "lights", "classes": ["on", "off"]}


def test_the_bundle_of_the_best_trial_is_the_sweeps_model(tmp_path):
    tracker = Noted()
    recorder = EventRecorder(tracker, tmp_path)
    trials = [chosen("a", validation_acc=0.8), chosen("b", validation_acc=0.9)]
    facts = {
        "trial": "b",
        "name": "b",
        "modality": "text",
        "class_names": ["on", "off"],
        "scenario": "class_incremental",
        "tasks": [{"name": "lights"}],
        "versions": {"torch": "2.13.0+cpu"},
        "metrics": {"validation/average_accuracy": 0.9},
    }
    bundle = tmp_path / "b" / "bundle"
    bundle.mkdir(parents=True)
    (bundle / "bundle.json").write_text(json.dumps(facts))
    (bundle / "job.json").write_text(json.dumps(JOB))
    started(recorder, *trials)
    recorder.record({"event": "sweep_finished", "trial": None, "status": "finished"}, trials)
    (model,) = [call[1] for call in tracker.calls if call[0] == "model"]
    assert (model.bundle, model.requirements) == (bundle, ("torch==2.13.0",))
    assert model.tags["validation_average_accuracy"] == "0.9000"


def test_a_lone_trials_matrix_is_drawn_under_its_own_name(tmp_path):
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
