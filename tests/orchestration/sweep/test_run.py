"""A sweep on real Ray, with a host, a thin trial and the store killed on the way, and the store
stopped."""

import os
import signal

import pytest
import ray

from lamina.orchestration.store.client import SilentStoreError
from lamina.orchestration.sweep import store_watch, terminal
from lamina.orchestration.sweep.terminal import store_of
from watched import RAY, Watched, kill_thin_trials, matrix, matrix_alone

pytestmark = RAY


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sweep")


class Killer:
    """Kills the thin trial when something is learned, a host after the first task of ER, and the
    store after the second task of anything; stops the new store after that of the other trial."""

    def __init__(self, output_dir):
        self.output_dir = output_dir
        self.processes = {}
        self.killed = []
        self.answer = None
        """What somebody is told at another terminal who asks the store that is stopped."""

    def __call__(self, event):
        if event["event"] == "reported" and "thin trial" not in self.killed:
            self.killed += ["thin trial"] * (kill_thin_trials() > 0)
        match event:
            case {"event": "sweep_started", "process": process}:
                self.processes["store"] = process
            case {"event": "host_ready", "host": host, "process": process}:
                self.processes[host] = process
            case {"event": "reported", "host": host, "trial": trial, "report": {"task": 0}}:
                if trial.startswith("er-") and "host" not in self.killed:
                    self.killed.append("host")
                    os.kill(self.processes[host], signal.SIGKILL)
            case {"event": "reported", "report": {"task": 1}} if "store" not in self.killed:
                self.killed.append("store")
                os.kill(self.processes["store"], signal.SIGKILL)
            case {"event": "reported", "report": {"task": 1}} if "stopped store" not in self.killed:
                self.killed.append("stopped store")
                with store_of(self.output_dir) as store:
                    os.kill(ray.get(store.ask()), signal.SIGSTOP)
                    with pytest.raises(SilentStoreError) as error:
                        store.results()
                self.answer = str(error.value)


@pytest.fixture(scope="module")
def battered(ray_cluster, make_job, folder):
    """A sweep that lost a host in the middle of a trial, and its store; its trials are kept within
    their tasks, too."""
    killer = Killer(folder / "out")
    job = make_job(folder / "out")
    job["sweep"]["checkpoint_steps"] = 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_watch, "SILENT_SECONDS", 5.0)
        patch.setattr(terminal, "ANSWER_SECONDS", 1.0)
        sweep = Watched(job, killer)
    assert sorted(killer.killed) == ["host", "stopped store", "store", "thin trial"]
    assert "does not answer for 1 s" in killer.answer
    return sweep


def test_every_trial_finishes_although_a_host_and_the_store_were_killed(battered):
    assert sorted((row["name"], row["status"], row["error"]) for row in battered.rows) == [
        ("er-lora", "finished", None),
        ("simplecil", "finished", None),
    ]


def test_a_store_that_is_stopped_is_said_and_started_again(battered):
    assert len(battered.of("store_silent")) >= 1


def test_hosts_take_every_core_and_thin_trials_still_run(battered):
    assert {event["host"] for event in battered.of("started")} == {"host-0", "host-1"}


def test_the_trial_of_the_killed_host_goes_on_where_it_was(battered):
    (row,) = [row for row in battered.rows if row["name"] == "er-lora"]
    assert len(battered.of("started", trial=row["trial"])) == 2
    assert len(battered.of("reported", trial=row["trial"])) == len(row["reports"])


def test_the_results_are_those_of_a_trial_alone_to_the_last_bit(battered):
    for row in battered.rows:
        assert matrix(row["reports"]) == matrix_alone(row["mapping"])


def test_each_trial_leaves_its_matrix_and_its_adapters_and_pictures_only_for_who_shows_them(
    battered, folder
):
    for row in battered.rows:
        left = folder / "out" / "trials" / row["trial"]
        assert (left / "accuracy_matrix.json").stat().st_size > 0
        assert not list(left.glob("*.png"))
    (er,) = [row for row in battered.rows if row["name"] == "er-lora"]
    bundle = folder / "out" / "trials" / er["trial"] / "bundle"
    assert list(bundle.rglob("adapters/*/adapter_model.safetensors"))


def test_the_same_sweep_again_trains_nothing(battered, ray_cluster, make_job, folder):
    again = Watched(make_job(folder / "out"))
    assert not again.of("started")
    assert len(again.of("known")) == 2
    key = lambda row: row["trial"]  # noqa: E731
    assert sorted(again.rows, key=key) == sorted(battered.rows, key=key)


@pytest.mark.parametrize("scheduler", [None, {"name": "asha", "grace_period": 2, "max_t": 3}])
def test_a_host_trains_trials_together_that_ray_tune_has_not_come_to_yet(
    ray_cluster, make_job, tmp_path, scheduler
):
    job = make_job(tmp_path / "out")
    rates = [1e-3, 2e-3, 3e-3, 4e-3]
    job["sweep"] = {
        "variants": [{"training": {"learning_rate": rate}} for rate in rates],
        "scheduler": scheduler,
    }
    # Ray Tune keeps two trials awake for one host.
    job["hosts"] = {"count": 1, "cohort": 4}
    sweep = Watched(job, in_threads=True)
    kinds = [each["event"] for each in sweep.events if each["event"] in ("started", "reported")]
    assert kinds[:4] == ["started"] * 4
    assert len(sweep.rows) == 4
    for row in sweep.rows:
        assert len(row["reports"]) >= 2
        assert matrix(row["reports"]) == matrix_alone(row["mapping"])[: len(row["reports"])]
