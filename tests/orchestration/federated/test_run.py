"""Federated runs on real Ray, with a host and the driver killed on the way: the same bytes."""

import os
import signal
from threading import Timer

import pytest
import torch

from lamina.bundles import open_bundle
from lamina.config import parse_job
from lamina.evaluation.leaderboard import leaderboard
from lamina.federation.server.server_state import FORMAT
from lamina.orchestration.federated.round_store import RoundStore
from lamina.orchestration.federated.run import run_federated
from lamina.registry import InputError
from lamina.streams import build_stream
from lamina.training.checkpoint import pack
from language_models import calls_job
from watched import RAY, Watched, killed_driver

MODES = {
    "synchronous": {"participation": 0.7},
    "buffered": {
        "mode": "buffered",
        "buffer": 2,
        "arrival": {"kind": "periodic", "order": "own"},
        "clock": {"speed_spread": 1.0, "dropout": 0.1},
    },
}
DRIVER = """
import json, sys
from lamina.config import parse_job
from lamina.orchestration.federated.run import run_federated
from lamina.streams import build_stream
job = parse_job(json.loads(sys.argv[1]))
raw = build_stream(job.stream, job.scenario, job.seed)
run_federated(job, raw, lambda event: print(json.dumps(event), flush=True))
"""


@pytest.fixture(scope="module")
def federated_job(make_job):
    """Makes the mapping of a federated job: experience replay at five clients."""

    def make(output_dir, mode, **more):
        job = make_job(output_dir)
        del job["sweep"]
        federation = {"clients": 5, "rounds": 2, "bounds": False, **MODES[mode], **more}
        return {**job, "federation": federation}

    return make


def federate(mapping, react=lambda event: None, in_process=False):
    job = parse_job(mapping)
    raw = build_stream(job.stream, job.scenario, job.seed)
    return run_federated(job, raw, react, in_process=in_process)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the run without Ray left in the synchronous mode."""
    return tmp_path_factory.mktemp("alone")


@pytest.fixture(scope="module")
def alone(federated_job, folder, tmp_path_factory):
    """The same run without Ray, by its mode."""
    folders = {"synchronous": folder, "buffered": tmp_path_factory.mktemp("buffered")}
    return {mode: federate(federated_job(folders[mode], mode), in_process=True) for mode in MODES}


class HostKiller:
    """Kills the first host in the middle of the third round."""

    def __init__(self):
        self.processes = []
        self.rounds = 0

    def __call__(self, event):
        match event:
            case {"event": "host_ready", "process": process}:
                self.processes.append(process)
            case {"event": "work_done", "kind": "train"}:
                self.rounds += 1
                if self.rounds == 2:
                    Timer(0.05, os.kill, (self.processes[0], signal.SIGKILL)).start()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.ray
@RAY[1]
def test_two_hosts_of_which_one_is_killed_give_the_same_bytes(
    alone, ray_cluster, federated_job, tmp_path, mode
):
    killer = HostKiller()
    found = federate(federated_job(tmp_path, mode), killer)
    assert killer.rounds > 2, "a host was killed before the last round"
    assert found.sha == alone[mode].sha
    assert (
        found.run.server.traffic.state_dict().keys()
        == alone[mode].run.server.traffic.state_dict().keys()
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.ray
@RAY[1]
def test_one_host_and_kill_9_of_the_driver_give_the_same_bytes(
    alone, ray_cluster, federated_job, tmp_path, mode
):
    job = {**federated_job(tmp_path, mode), "hosts": {"count": 1}}
    with killed_driver(job, DRIVER) as events:
        rounds = (event for event in events if event.get("kind") == "train")
        done = [next(rounds) for _ in range(4)][-1]
    again = []
    found = federate(job, again.append)
    redone = [event["num_done"] for event in again if event["event"] == "work_done"]
    assert min(redone) > done["num_done"]
    assert found.sha == alone[mode].sha


def test_a_run_that_is_over_does_nothing_again(alone, federated_job, folder):
    again = []
    found = federate(federated_job(folder, "synchronous"), again.append, in_process=True)
    assert found.sha == alone["synchronous"].sha
    assert [event["event"] for event in again] == ["federation_started"]


def test_what_was_reached_beside_a_run_is_trained_once(federated_job, tmp_path):
    job = federated_job(tmp_path, "synchronous", rounds=1, bounds=True)
    events = []
    first = federate(job, events.append, in_process=True)
    second = federate(job, events.append, in_process=True)
    assert [each["event"] for each in events].count("bounds_started") == 1
    assert (second.central, second.local) == (first.central, first.local)
    assert sorted(second.local) == [0, 1, 2, 3, 4]
    assert second.central.rows["test"][-1][0] is not None


def test_a_folder_of_another_job_is_refused(alone, federated_job, folder):
    with pytest.raises(InputError, match="output_dir"):
        federate(federated_job(folder, "synchronous", local_steps=1), in_process=True)


def test_what_clients_keep_is_on_disk_and_no_more_than_that(alone, folder):
    kept = {path.stem for path in (folder / "clients").iterdir()}
    assert kept >= set(alone["synchronous"].run.server.client_states.values())
    assert len(kept) <= 2 * 5
    assert len(list((folder / "rounds").iterdir())) == 2
    assert (folder / "manifest.json").stat().st_size > 0


def test_a_saved_state_of_another_format_is_refused_in_one_line(tmp_path):
    store = RoundStore(tmp_path, "config")
    older = {"config": "config", "state": {"num_done": 3, "client_states": {}}}
    (tmp_path / "rounds" / "000003.safetensors").write_bytes(pack(older))
    with pytest.raises(InputError, match=rf"output_dir: .*in format 1, .* reads format {FORMAT} "):
        store.latest()


def test_clients_that_hide_their_rows_go_on_from_a_killed_run_with_what_they_have_spent(
    federated_job, tmp_path
):
    pytest.importorskip("opacus")

    def job(name):
        hidden = {"unit": "example", "clip": 1.0, "noise_multiplier": 0.8}
        found = federated_job(tmp_path / name, "synchronous", privacy=hidden)
        training = {"epochs": 1, "batch_size": 16}
        return {**found, "strategy": {"name": "finetune"}, "memory": None, "training": training}

    def kill(event):
        if event.get("kind") == "train" and event["round"] == 4:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        federate(job("killed"), kill, in_process=True)
    rounds = []
    found = federate(job("killed"), rounds.append, in_process=True)
    whole = federate(job("whole"), in_process=True)
    assert found.sha == whole.sha
    assert found.run.server.budgets.epsilon == whole.run.server.budgets.epsilon > 0
    told = [each["metrics"]["epsilon"] for each in rounds if each.get("kind") == "train"]
    assert told == sorted(told)
    assert told[-1] == whole.run.server.budgets.epsilon


def test_sums_that_are_asked_for_before_and_after_a_task_are_admitted(federated_job, tmp_path):
    job = federated_job(tmp_path, "synchronous", rounds=1)
    looked = []

    def note(event):
        if event.get("kind") in ("preview", "review"):
            looked.append(event["kind"])

    found = federate({**job, "strategy": {"name": "inflora"}, "memory": None}, note, True)
    assert {"preview", "review"} & set(looked)
    assert not found.run.server.traffic.refused
    assert found.run.done


@pytest.mark.ray
@RAY[1]
def test_a_sweep_tries_aggregators_on_the_same_clients(ray_cluster, federated_job, tmp_path):
    job = federated_job(tmp_path, "synchronous")
    aggregators = [{"federation": {"aggregator": {"name": name}}} for name in ("fedit", "flora")]
    sweep = Watched({**job, "sweep": {"variants": aggregators}}, in_threads=True)
    assert [row["status"] for row in sweep.rows] == ["finished", "finished"]
    for row in sweep.rows:
        assert len(row["reports"]) == 3
        name = row["mapping"]["federation"]["aggregator"]["name"]
        alone = federate({**row["mapping"], "output_dir": str(tmp_path / name)}, in_process=True)
        left = open_bundle(tmp_path / "trials" / row["trial"] / "bundle").model["model"]
        for key, tensor in alone.run.server.global_state.tensors.items():
            group, _, own = key.partition(".")
            assert torch.equal(left["adapters"][group]["tensors"][own], tensor)
        assert row["reports"][-1]["metrics"]["bytes/up"] > 0


@pytest.mark.ray
@RAY[1]
def test_a_sweep_ranks_federations_of_a_language_model_by_exact_match(
    ray_cluster, tiny_language_model, tmp_path
):
    job = {
        **calls_job(tiny_language_model),
        "federation": {"clients": 2, "rounds": 2, "bounds": False},
        "sweep": {"space": {"federation.aggregator.name": {"grid_search": ["fedit", "flora"]}}},
        "hosts": {"count": 1},
        "tracking": {"enabled": False},
        "output_dir": str(tmp_path),
    }
    sweep = Watched(job, in_threads=True)
    assert [row["status"] for row in sweep.rows] == ["finished", "finished"]
    for row in sweep.rows:
        metrics = row["reports"][-1]["metrics"]
        assert metrics["bytes/up"] > 0
        assert not any("accuracy" in name for name in metrics)
    for ranked in leaderboard(sweep.rows):
        assert ranked["metric"] == "validation/average_exact_match"
        assert ranked["score"] == ranked["validation_average_accuracy"] is not None
        assert ranked["average_accuracy"] is not None
