"""Halving at task boundaries on real Ray."""

import json

import pytest

from lamina.config import expand, parse_job
from lamina.evaluation.halving import standing_of, survivors
from lamina.orchestration.sweep.schedulers import make_scheduler
from lamina.orchestration.sweep.task_halving import TaskHalving
from lamina.orchestration.sweep.terminal import read_ledger
from lamina.registry import InputError
from watched import RAY, Watched, kill_thin_trials, killed_driver, matrix, matrix_alone

RATES = [1e-9, 1e-2, 1e-3, 1e-7]
BROKEN = {"adapter.layers": [9]}
"""No such layer: a trial that fails on its host."""


def halved(make_job, output_dir, variants=(), **scheduler):
    """Trials of three tasks that differ in their learning rate, halved after the first and the
    second task."""
    job = make_job(output_dir)
    job["strategy"] = {"name": "finetune"}
    job["training"] = {"epochs": 1, "batch_size": 16}
    job["hosts"] = {"count": 1}
    settings = {"name": "task_halving", "grace_period": 1, "costs": ["forgetting", "train_flops"]}
    job["sweep"] = {
        "variants": [*({"training.learning_rate": rate} for rate in RATES), *variants],
        "scheduler": {**settings, **scheduler},
        "max_concurrent": 1,
    }
    return job


def expected(rows, num_tasks_learned):
    """Which of those that learned so many tasks should have gone on."""
    standings = [
        standing_of(
            row["trial"],
            "finetune",
            [each["validation"] for each in reports],
            reports[-1]["metrics"],
            3,
            ["forgetting", "train_flops"],
        )
        for row in rows
        if len(reports := row["reports"][:num_tasks_learned]) == num_tasks_learned
    ]
    return survivors(standings, 2)


def check(rows):
    """The best two of four learned a second task, and the better of them the third."""
    went_on = {
        number: {row["trial"] for row in rows if len(row["reports"]) > number} for number in (1, 2)
    }
    assert went_on == {number: expected(rows, number) for number in (1, 2)}
    assert sorted(len(row["reports"]) for row in rows) == [1, 1, 2, 3]
    assert sorted(row["status"] for row in rows) == ["finished", "stopped", "stopped", "stopped"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"grace_period": 0}, "sweep.scheduler: grace_period: 0 is not positive"),
        ({"reduction_factor": 1}, "sweep.scheduler.reduction_factor: 1 is not allowed"),
        ({"bracket_size": 1}, "sweep.scheduler: bracket_size: 1 is below 2"),
        ({"costs": ["seconds"]}, "did you mean 'train_seconds'"),
        ({"grace": 2}, "sweep.scheduler.grace: unknown key; did you mean 'grace_period'"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(make_job, tmp_path, settings, said):
    with pytest.raises(InputError) as raised:
        make_scheduler(expand(parse_job(halved(make_job, tmp_path, **settings))), 9)
    assert said in str(raised.value)


class Notes:
    """What a store remembers of a scheduler."""

    def __init__(self, noted):
        self.text = json.dumps(noted)

    def noted(self, key):
        return self.text


def test_trials_that_learned_from_other_data_compete_with_nobody():
    entry = {"strategy": "er", "projected_accuracy": 0.9, "costs": [], "goes": True}
    scheduler = TaskHalving()
    store = Notes([{"2": {"er-old": entry, "er-new": entry}}])
    scheduler.attach(store, 2, 2, is_strict=False, outdated={"er-old"})
    assert scheduler._decision("er-new", 2) is True
    assert scheduler._decision("er-old", 2) is None


def test_rungs_are_the_grace_times_powers_of_the_factor():
    scheduler = TaskHalving(grace_period=2, reduction_factor=3)
    assert [task for task in range(1, 60) if scheduler._is_rung(task)] == [2, 6, 18, 54]


@pytest.mark.ray
@RAY[1]
def test_the_best_half_goes_on_at_each_rung_though_one_trial_runs_at_a_time_and_one_fails(
    ray_cluster, make_job, tmp_path
):
    sweep = Watched(halved(make_job, tmp_path / "out", variants=[BROKEN]), in_threads=True)
    failed = [row for row in sweep.rows if row["status"] == "failed"]
    assert len(failed) == 1
    check([row for row in sweep.rows if row["status"] != "failed"])
    assert {event["host"] for event in sweep.of("started")} == {"host-0"}
    for row in sweep.rows:
        # Leaves its host at a rung, unless it is the last that the others wait for.
        times = len(sweep.of("started", trial=row["trial"]))
        paused = len(sweep.of("paused", trial=row["trial"]))
        assert times == paused + 1 - (row["status"] == "stopped" and paused == len(row["reports"]))
    (best,) = [row for row in sweep.rows if row["status"] == "finished"]
    assert matrix(best["reports"]) == matrix_alone(best["mapping"])


@pytest.mark.ray
@RAY[1]
def test_hosts_that_train_ahead_of_ray_tune_halve_alike_although_thin_trials_are_killed(
    ray_cluster, make_job, tmp_path
):
    job = halved(make_job, tmp_path / "out")
    job["hosts"] = {"count": 2}
    del job["sweep"]["max_concurrent"]
    killed = []

    def kill_once(event):
        if event["event"] == "reported" and not any(killed):
            killed.append(kill_thin_trials())

    sweep = Watched(job, kill_once, in_threads=True)
    assert killed[-1] > 0
    check(sweep.rows)
    for row in sweep.rows:
        assert matrix(row["reports"]) == matrix_alone(row["mapping"])[: len(row["reports"])]


@pytest.mark.ray
@RAY[1]
def test_a_sweep_whose_driver_was_killed_goes_on_halving_with_the_same_decisions(
    ray_cluster, make_job, tmp_path
):
    job = halved(make_job, tmp_path / "out")
    with killed_driver(job) as events:
        seen = []
        for event in events:
            seen.append(event)
            if event["event"] == "reported" and event["report"]["task"] == 1:
                break
    stopped = {event["trial"] for event in seen if event["event"] == "stopped"}
    before = {row["trial"]: row["reports"] for row in read_ledger(tmp_path / "out")}
    sweep = Watched(job, in_threads=True)
    check(sweep.rows)
    for row in sweep.rows:
        learned = before[row["trial"]]
        assert row["reports"][: len(learned)] == learned
        if row["trial"] in stopped:
            assert row["reports"] == learned
            assert not sweep.of("started", trial=row["trial"])
