"""Clients that come to be at tasks of their own, and strategies that cannot learn so."""

import pytest

from lamina.config import ConfigError, check_components, parse_job
from lamina.config.clients import manifest_of
from lamina.registry import InputError
from lamina.streams import build_stream
from lamina.streams.manifest_file import write_manifest

OWN = {"kind": "periodic", "order": "own"}
ROWS = {"unit": "example", "clip": 1.0, "summaries": {"noise_multiplier": 2.0, "clip": 0.5}}


def job_of(strategy="olora", **federation):
    return parse_job(
        {
            "name": "rooms",
            "stream": {"name": "assistant", "sentences_per_intent": 5},
            "scenario": {"kind": "class_incremental", "num_tasks": 3},
            "backbone": {"name": "minilm"},
            "adapter": {"kind": "lora"},
            "strategy": {"name": strategy},
            "federation": {"clients": 3, **federation},
        }
    )


def problems_of(job):
    with pytest.raises(ConfigError) as refused:
        check_components([job])
    return refused.value.problems


def test_a_strategy_whose_later_tasks_train_new_tensors_wants_clients_in_step():
    (line,) = problems_of(job_of(arrival=OWN))
    assert line.startswith("federation.arrival: clients come to be at tasks of their own")
    assert "'olora'" in line


@pytest.mark.parametrize("strategy", ["finetune", "lwf", "simplecil"])
def test_strategies_that_train_the_same_in_every_task_do_not(strategy):
    assert check_components([job_of(strategy, arrival=OWN)])


def test_an_arrival_that_happens_to_keep_step_is_in_step():
    assert check_components([job_of(arrival={"kind": "periodic"})])


@pytest.mark.parametrize(
    ("strategy", "privacy", "said"),
    [("olora", None, "trains tensors in later tasks"), ("ewc", ROWS, "unit 'example'")],
)
def test_a_manifest_with_clients_out_of_step_is_refused(tmp_path, strategy, privacy, said):
    free = job_of("finetune", arrival=OWN)
    raw = build_stream(free.stream, free.scenario, free.seed)
    path = tmp_path / "manifest.json"
    write_manifest(manifest_of(free, raw), path)
    job = job_of(strategy, manifest=str(path), clients=None, privacy=privacy)
    (line,) = problems_of(job)
    assert line.startswith("federation.manifest: clients come to be at tasks of their own")
    assert said in line


def test_a_manifest_that_is_not_there_is_named_before_anything_starts(tmp_path):
    job = job_of(manifest=str(tmp_path / "none.json"), clients=None)
    with pytest.raises(InputError, match=r"none\.json"):
        check_components([job])
