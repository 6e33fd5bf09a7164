"""Events as lines of JSON."""

from threading import Thread

import pandas
import pytest

from lamina.tracking.json_lines import JsonLinesTracker


def read(folder):
    return pandas.read_json(folder / "events.jsonl", lines=True)


def test_metrics_are_columns_that_pandas_reads(tmp_path):
    tracker = JsonLinesTracker(tmp_path)
    tracker.start_trial("t0", {"strategy": {"name": "er"}}, "er-lora")
    tracker.log("t0", {"validation/average_accuracy": 0.9}, step=0)
    tracker.log("t0", {"validation/average_accuracy": 0.7, "validation/forgetting": 0.2}, step=1)
    tracker.log(None, {"cost/seconds": float("nan")}, step=1)

    lines = read(tmp_path)  # While it is open: each line is there when the call has returned.
    tracker.close()

    metrics = lines[(lines.event == "log") & (lines.trial == "t0")]
    assert list(metrics["validation/average_accuracy"]) == pytest.approx([0.9, 0.7])
    assert list(metrics.step) == [0, 1]
    assert lines.params[0] == {"strategy": {"name": "er"}}
    assert lines["cost/seconds"].isna().all()


def test_a_later_tracker_appends_and_drops_the_line_that_a_kill_tore(tmp_path):
    tracker = JsonLinesTracker(tmp_path)
    tracker.log("t0", {"loss": 1.0}, step=0)
    tracker.close()
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"time": "2026-11-22T10:0')
    tracker = JsonLinesTracker(tmp_path)
    tracker.log("t0", {"loss": 0.5}, step=1)
    tracker.close()

    assert list(read(tmp_path).loss) == [1.0, 0.5]


def test_threads_do_not_tear_each_others_lines(tmp_path):
    tracker = JsonLinesTracker(tmp_path)

    def say(trial: str) -> None:
        for step in range(200):
            tracker.log(trial, {f"metric_{number}": 0.5 for number in range(20)}, step)

    threads = [Thread(target=say, args=(f"t{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tracker.close()

    steps = read(tmp_path).groupby("trial").step
    assert {trial: list(each) for trial, each in steps} == {
        f"t{number}": list(range(200)) for number in range(4)
    }
