"""Runs in a real MLflow store."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import pytest
from mlflow import MlflowClient

from lamina.tracking.base import TrackingError
from lamina.tracking.mlflow_tracker import LONGEST_PARAM, MlflowTracker, flatten

# MLflow 3.17 asks SQLAlchemy 2.1 for a way of loading that is on its way out.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

PARAMS = {"strategy": {"name": "er"}, "adapter": {"kind": "lora", "rank": 8}}


@pytest.fixture
def track(output_dir, request):
    """Makes trackers on the shared store, with a run key that is this test's own."""
    trackers = []

    def make(**options) -> MlflowTracker:
        options = {"experiment": "tests", "run": request.node.name, **options}
        trackers.append(MlflowTracker(output_dir, **options))
        return trackers[-1]

    yield make
    for tracker in trackers:
        tracker.close()


@pytest.fixture
def runs(client, request):
    """Finds the runs of this test, by name."""

    def find(experiment: str = "tests"):
        experiment_id = client.get_experiment_by_name(experiment).experiment_id
        found = client.search_runs([experiment_id], f"tags.`lamina.run` = '{request.node.name}'")
        names = [run.info.run_name for run in found]
        assert len(set(names)) == len(names), f"a run twice: {names}"
        return {run.info.run_name: run for run in found}

    return find


def history(client: MlflowClient, run, key: str) -> list[tuple[int, float]]:
    """The points of a metric, by step."""
    return sorted(
        (each.step, each.value) for each in client.get_metric_history(run.info.run_id, key)
    )


def test_a_sweep_is_a_parent_run_with_a_child_run_per_trial(track, runs):
    tracker = track(source="jobs/quickstart.yaml")
    tracker.start_sweep("quickstart", {"seed": 0})
    for trial in range(3):
        tracker.start_trial(f"t{trial}", PARAMS, f"er-lora-{trial}")
        tracker.finish_trial(f"t{trial}", "finished")
    tracker.finish_sweep("finished")
    tracker.close()

    found = runs()
    parent = found.pop("quickstart")
    assert sorted(found) == ["er-lora-0", "er-lora-1", "er-lora-2"]
    for name, run in found.items():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["lamina.trial"] == f"t{name[-1]}"
        assert run.data.params == {
            "strategy.name": "er",
            "adapter.kind": "lora",
            "adapter.rank": "8",
        }
    assert "lamina.trial" not in parent.data.tags
    assert parent.data.params == {"seed": "0"}
    assert parent.data.tags["mlflow.source.name"] == "jobs/quickstart.yaml"
    assert "**quickstart**" in parent.data.tags["mlflow.note.content"]


def test_a_lone_trial_is_a_run_of_its_own(track, runs):
    tracker = track()
    tracker.start_trial("t0", PARAMS, "er-lora")
    tracker.finish_trial("t0", "finished")
    tracker.close()

    assert "mlflow.parentRunId" not in runs()["er-lora"].data.tags


def test_metrics_have_a_point_per_task(track, runs, client):
    tracker = track()
    tracker.start_trial("t0", PARAMS, "er-lora")
    tracker.log("t0", {"validation/average_accuracy": 0.9}, step=0)
    tracker.log("t0", {"validation/average_accuracy": 0.7, "validation/forgetting": 0.2}, step=1)
    tracker.finish_trial("t0", "finished")
    tracker.close()

    run = runs()["er-lora"]
    assert history(client, run, "validation/average_accuracy") == [(0, 0.9), (1, 0.7)]
    assert history(client, run, "validation/forgetting") == [(1, 0.2)]


def test_many_metrics_take_few_calls(track, runs, client, monkeypatch):
    calls = []
    write = MlflowClient.log_batch

    def counted(self, run_id, metrics=(), **rest):
        calls.append(len(metrics))
        return write(self, run_id, metrics=metrics, **rest)

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    tracker = track()
    tracker.start_trial("t0", {}, "er-lora")
    tracker.log("t0", {f"cost/number_{each}": each for each in range(2500)}, step=0)
    tracker.close()

    assert calls == [1000, 1000, 500]
    assert len(runs()["er-lora"].data.metrics) == 2500


def test_artifacts_are_read_before_the_call_returns(track, runs, client, tmp_path):
    picture, folder = tmp_path / "matrix.png", tmp_path / "adapters"
    (folder / "task_0").mkdir(parents=True)
    picture.write_bytes(b"first")
    (folder / "task_0" / "adapter_config.json").write_text("{}")
    tracker = track()
    tracker.start_sweep("sweep", {})
    tracker.start_trial("t0", {}, "er-lora")
    tracker.artifact("t0", picture)
    tracker.artifact("t0", folder, folder="adapters")
    tracker.artifact(None, picture, folder="pictures")
    picture.write_bytes(b"second")
    tracker.finish_trial("t0", "finished")
    tracker.finish_sweep("finished")
    tracker.close()

    found = runs()
    kept = client.download_artifacts(found["er-lora"].info.run_id, "", str(tmp_path))
    assert (Path(kept) / "matrix.png").read_bytes() == b"first"
    assert (Path(kept) / "adapters" / "task_0" / "adapter_config.json").read_text() == "{}"
    pictures = client.list_artifacts(found["sweep"].info.run_id, "pictures")
    assert [each.path for each in pictures] == ["pictures/matrix.png"]


def test_each_way_to_end_has_its_status(track, runs):
    tracker = track()
    tracker.start_sweep("sweep", {})
    for status in ("finished", "failed", "stopped"):
        tracker.start_trial(status, {}, status)
        tracker.finish_trial(status, status)
    tracker.finish_sweep("failed")
    tracker.close()

    assert {name: run.info.status for name, run in runs().items()} == {
        "finished": "FINISHED",
        "failed": "FAILED",
        "stopped": "KILLED",
        "sweep": "FAILED",
    }


def test_the_end_of_a_sweep_closes_trials_that_nobody_finished(track, runs):
    tracker = track()
    tracker.start_sweep("sweep", {})
    tracker.start_trial("t0", {}, "er-lora")
    tracker.finish_sweep("finished")
    tracker.close()

    statuses = {name: run.info.status for name, run in runs().items()}
    assert statuses == {"er-lora": "KILLED", "sweep": "FINISHED"}


def test_closing_leaves_no_run_open(track, runs):
    tracker = track()
    tracker.start_sweep("sweep", {})
    tracker.start_trial("t0", {}, "er-lora")
    tracker.close()

    assert {run.info.status for run in runs().values()} == {"KILLED"}


def test_a_sweep_that_goes_on_finds_its_runs_and_repeats_nothing(track, runs, client):
    def say(tracker: MlflowTracker, tasks: int) -> None:
        tracker.start_sweep("sweep", {"seed": 0})
        for trial in ("t0", "t1"):
            tracker.start_trial(trial, PARAMS, f"er-lora-{trial}")
            for step in range(tasks):
                tracker.log(trial, {"test/average_accuracy": step / 10}, step)

    interrupted = track()
    say(interrupted, tasks=2)
    interrupted.close()
    before = runs()
    going_on = track()
    say(going_on, tasks=4)
    going_on.finish_trial("t0", "finished")
    going_on.finish_trial("t1", "finished")
    going_on.finish_sweep("finished")
    going_on.close()

    after = runs()
    ids = [{name: run.info.run_id for name, run in found.items()} for found in (before, after)]
    assert ids[0] == ids[1]
    assert {run.info.status for run in after.values()} == {"FINISHED"}
    for name in ("er-lora-t0", "er-lora-t1"):
        points = history(client, after[name], "test/average_accuracy")
        assert points == [(0, 0.0), (1, 0.1), (2, 0.2), (3, 0.3)]


CRASH = """
import os, signal, sys
from pathlib import Path
from mlflow import MlflowClient
from lamina.tracking.mlflow_store import embedded_uri
from lamina.tracking.mlflow_tracker import MlflowTracker

output_dir, run = Path(sys.argv[1]), sys.argv[2]
tracker = MlflowTracker(output_dir, run=run, experiment="tests")
tracker.start_sweep("sweep", {})
tracker.start_trial("t0", {}, "er-lora")
tracker.log("t0", {"train/loss": 1.0}, step=0)
client = MlflowClient(embedded_uri(output_dir))
experiment_id = client.get_experiment_by_name("tests").experiment_id
wanted = f"tags.`lamina.run` = '{run}' and metrics.`train/loss` = 1"
while not client.search_runs([experiment_id], wanted):
    pass
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_open_is_found_and_closed(
    track, runs, client, output_dir, request
):
    track(run="makes the experiment").close()
    killed = subprocess.run([sys.executable, "-c", CRASH, output_dir, request.node.name])
    assert killed.returncode == -signal.SIGKILL
    assert {run.info.status for run in runs().values()} == {"RUNNING"}

    tracker = track()
    tracker.start_sweep("sweep", {})
    tracker.start_trial("t0", {}, "er-lora")
    tracker.log("t0", {"train/loss": 1.0}, step=0)
    tracker.log("t0", {"train/loss": 0.5}, step=1)
    tracker.finish_trial("t0", "finished")
    tracker.finish_sweep("finished")
    tracker.close()

    found = runs()
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert history(client, found["er-lora"], "train/loss") == [(0, 1.0), (1, 0.5)]


def test_a_trial_may_go_on_without_being_started_again(track, runs, client):
    interrupted = track()
    interrupted.start_sweep("sweep", {})
    interrupted.start_trial("t0", {}, "er-lora")
    interrupted.log("t0", {"train/loss": 1.0}, step=0)
    interrupted.close()
    going_on = track()
    going_on.log("t0", {"train/loss": 0.5}, step=1)
    going_on.finish_trial("t0", "finished")
    going_on.finish_sweep("finished")
    going_on.close()

    found = runs()
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert history(client, found["er-lora"], "train/loss") == [(0, 1.0), (1, 0.5)]


def test_to_hear_again_of_a_finished_trial_does_not_move_its_end(track, runs):
    def say() -> None:
        tracker = track()
        tracker.start_trial("t0", PARAMS, "er-lora")
        tracker.log("t0", {"train/loss": 1.0}, step=0)
        tracker.finish_trial("t0", "finished")
        tracker.close()

    say()
    before = runs()["er-lora"].info
    say()
    after = runs()["er-lora"].info

    assert (after.status, after.end_time) == ("FINISHED", before.end_time)


def test_params_that_changed_are_told_and_do_not_stop_anything(track, runs, caplog):
    for rank in (8, 16):
        tracker = track()
        tracker.start_trial("t0", {"adapter": {"rank": rank}}, "er-lora")
        tracker.finish_trial("t0", "finished")
        tracker.close()

    assert runs()["er-lora"].data.params == {"adapter.rank": "8"}
    assert "adapter.rank" in caplog.text


def test_threads_may_say_things_at_the_same_time(track, runs, client):
    tracker = track()
    tracker.start_sweep("sweep", {})

    def learn(trial: str) -> None:
        tracker.start_trial(trial, PARAMS, trial)
        for step in range(20):
            tracker.log(trial, {"train/loss": 1 / (step + 1)}, step)
        tracker.finish_trial(trial, "finished")

    threads = [Thread(target=learn, args=(f"t{number}",)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tracker.finish_sweep("finished")
    tracker.close()

    found = runs()
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    for number in range(5):
        steps = [step for step, _ in history(client, found[f"t{number}"], "train/loss")]
        assert steps == list(range(20))


def test_what_the_store_refuses_is_left_out_and_told(track, runs, client, caplog):
    tracker = track()
    tracker.start_trial("t0", {}, "er-lora")
    tracker.log("t0", {"x" * 300: 1.0}, step=0)
    tracker.finish_trial("t0", "finished")
    with pytest.raises(TrackingError, match="exceeds the maximum length"):
        tracker.close()

    run = runs()["er-lora"]
    assert run.info.status == "FINISHED"
    assert "refused" in caplog.text


def test_a_store_that_is_not_there_stops_nobody_and_is_told_at_the_end(tmp_path, caplog):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Bound and not listening: whoever connects is refused.
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        tracker = MlflowTracker(tmp_path, run="r", experiment="e", uri=uri, patience=5.0)
        tracker.start_trial("t0", PARAMS, "er-lora")
        tracker.log("t0", {"train/loss": 1.0}, step=0)
        with pytest.raises(TrackingError, match=r"the last \d events"):
            tracker.close()

    assert f"{uri} fails, events wait" in caplog.text


def test_a_second_close_does_nothing(track):
    tracker = track()
    tracker.close()
    tracker.close()

    with pytest.raises(AssertionError, match="closed"):
        tracker.log("t0", {"loss": 1.0}, step=0)


def test_an_experiment_of_another_measure_comes_with_views_of_that(track, client):
    track(experiment="plain texts", measure="perplexity").close()
    tags = client.get_experiment_by_name("plain texts").tags
    view = json.loads(tags["mlflow.sharedViewState.lamina-leaderboard"])
    state = json.loads(view["state"])
    assert state["columnOrder"][1] == "metrics.`validation/average_perplexity`"
    assert (state["orderByKey"], state["orderByAsc"]) == (state["columnOrder"][1], True)
    assert "accuracy" not in json.dumps(tags)


def test_an_experiment_comes_with_a_view_of_the_columns_that_matter(track, client):
    track().close()

    tags = client.get_experiment_by_name("tests").tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    view = json.loads(tags["mlflow.sharedViewState.lamina-leaderboard"])
    state = json.loads(view["state"])
    assert state["columnOrder"][1:3] == [
        "metrics.`validation/average_accuracy`",
        "metrics.`test/average_accuracy`",
    ]
    assert "params.`strategy.name`" in state["selectedColumns"]


def test_the_experiments_own_words_lead_to_its_leaderboard(track, client):
    track().close()

    found = client.get_experiment_by_name("tests")
    link = f"(#/experiments/{found.experiment_id}/runs?workflowType=machine_learning"
    assert link in found.tags["mlflow.note.content"]


def test_the_load_of_the_machine_is_recorded_with_the_sweep(track, runs, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    tracker = track(system_metrics=True)
    tracker.start_sweep("sweep", {})
    tracker.start_trial("t0", {}, "er-lora")
    while "sweep" not in runs() or not runs()["sweep"].data.metrics:
        time.sleep(0.2)
    tracker.finish_trial("t0", "finished")
    tracker.finish_sweep("finished")
    tracker.close()

    found = runs()
    assert "system/cpu_utilization_percentage" in found["sweep"].data.metrics
    assert not found["er-lora"].data.metrics


def test_a_deleted_experiment_is_restored(track, client, runs):
    track(experiment="thrown away").close()
    client.delete_experiment(client.get_experiment_by_name("thrown away").experiment_id)
    tracker = track(experiment="thrown away")
    tracker.start_trial("t0", {}, "er-lora")
    tracker.finish_trial("t0", "finished")
    tracker.close()

    assert runs("thrown away")["er-lora"].info.status == "FINISHED"


def test_params_are_flat_and_say_what_a_job_says():
    params = {
        "seed": 0,
        "adapter": {"kind": "lora", "targets": None, "layers": [0, 1]},
        "scenario": {"shuffle": False},
        "strategy": {"name": "er", "options": {}},
        "stream": {"labels": {"what's up?": "greeting"}},
    }

    assert dict(flatten(params)) == {
        "seed": "0",
        "adapter.kind": "lora",
        "adapter.targets": "null",
        "adapter.layers": "[0, 1]",
        "scenario.shuffle": "false",
        "strategy.name": "er",
        "strategy.options": "{}",
        "stream.labels.what_s up_": "greeting",
    }


def test_params_that_are_too_long_for_mlflow_are_cut(track, runs, caplog):
    tracker = track()
    tracker.start_trial("t0", {"text": "a" * 10_000}, "er-lora")
    tracker.finish_trial("t0", "finished")
    tracker.close()

    kept = runs()["er-lora"].data.params["text"]
    assert kept == "a" * (LONGEST_PARAM - 1) + "…"


def test_mlflow_is_told_to_report_to_nobody(track):
    track().close()

    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert logging.getLogger("alembic").level == logging.WARNING
