"""What the recorder makes of a sweep's reports."""

from lamina.orchestration.store.event_recorder import EventRecorder, best_of, write_curves


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


TOLD = [("er", reports_of(0.9, 0.8)), ("lwf", reports_of(0.7)), ("queued", [])]


def test_the_end_of_a_sweep_leaves_a_picture_of_all_trials_and_the_best_of_them(tmp_path):
    tracker = Noted()
    recorder = EventRecorder(tracker, tmp_path / "trials")
    recorder.record({"event": "sweep_finished", "trial": None, "status": "finished"}, TOLD)
    pictures = [tmp_path / f"average_accuracy_{part}.png" for part in ("validation", "test")]
    assert all(each.stat().st_size > 10_000 for each in pictures)
    assert tracker.calls == [
        *(("artifact", None, each) for each in pictures),
        ("log", None, best_of(TOLD)),
        ("finish_sweep", "finished"),
    ]


def test_only_trials_that_learned_every_task_count_for_the_best():
    assert best_of(TOLD) == {
        "sweep/finished_trials": 1.0,
        "sweep/best_validation_average_accuracy": 0.8,
        "sweep/best_test_average_accuracy": 0.4,
    }
    assert best_of(TOLD[1:]) == {"sweep/finished_trials": 0.0}


def test_a_single_trial_is_not_compared(tmp_path):
    assert write_curves(tmp_path, TOLD[1:]) == []


def test_a_trials_matrix_is_drawn_under_its_own_name(tmp_path):
    tracker = Noted()
    recorder = EventRecorder(tracker, tmp_path)
    recorder.record({"event": "finished", "trial": "er-12", "artifacts": None}, TOLD[:1])
    names = [call[2].name for call in tracker.calls if call[0] == "artifact"]
    assert names == [
        "accuracy_matrix.json",
        "accuracy_matrix_validation.png",
        "accuracy_matrix_test.png",
    ]
    assert tracker.calls[-1] == ("finish_trial", "er-12", "finished")
