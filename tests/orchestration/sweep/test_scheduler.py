"""Stock schedulers and searchers on real Ray: what is stopped leaves its host at once."""

import pytest

from watched import RAY, Watched

pytestmark = RAY


def test_a_stopped_trial_trains_no_further_task_and_frees_its_host(ray_cluster, make_job, tmp_path):
    job = make_job(tmp_path / "out")
    hopeless = {"strategy": {"name": "er"}, "training": {"learning_rate": 1e-9, "epochs": 1}}
    job["sweep"] = {
        "variants": [
            {"strategy": {"name": "simplecil"}},
            hopeless,
            {"strategy": {"name": "simplecil"}, "seed": 1},
        ],
        "scheduler": {"name": "asha", "grace_period": 1, "reduction_factor": 2},
        "max_concurrent": 1,
    }
    job["hosts"] = {"count": 1}
    sweep = Watched(job, in_threads=True)
    first, stopped, last = sweep.rows
    assert (first["status"], len(first["reports"])) == ("finished", 3)
    assert (stopped["status"], len(stopped["reports"])) == ("stopped", 1)
    order = [
        (event["event"], event["trial"])
        for event in sweep.events
        if event["event"] in ("started", "stopped")
    ]
    assert order[:4] == [
        ("started", first["trial"]),
        ("started", stopped["trial"]),
        ("stopped", stopped["trial"]),
        ("started", last["trial"]),
    ]


STOCK = {
    "hyperband": {"scheduler": {"name": "hyperband", "max_t": 3, "reduction_factor": 2}},
    "pbt": {
        "scheduler": {
            "name": "pbt",
            "perturbation_interval": 1,
            "quantile_fraction": 0.5,
            "hyperparam_mutations": {"training.learning_rate": [1e-3, 1e-2]},
        }
    },
    "pb2": {
        "scheduler": {
            "name": "pb2",
            "quantile_fraction": 0.5,
            "hyperparam_bounds": {"training.learning_rate": [1e-3, 1e-2]},
        }
    },
    "median": {"scheduler": {"name": "median_stopping_rule", "min_samples_required": 1}},
    "optuna": {"searcher": {"name": "optuna"}},
    "optuna, halved": {
        "searcher": {"name": "optuna"},
        "scheduler": {"name": "task_halving", "grace_period": 1, "bracket_size": 2},
    },
}


@pytest.mark.parametrize("name", STOCK)
def test_what_ray_tune_brings_works_on_thin_trials(ray_cluster, make_job, tmp_path, name):
    job = make_job(tmp_path / "out")
    job["strategy"] = {"name": "finetune"}
    job["training"] = {"epochs": 1, "batch_size": 16}
    job["hosts"] = {"count": 1}
    job["sweep"] = {
        "space": {"training.learning_rate": {"loguniform": [1e-9, 1e-2]}},
        "num_samples": 4,
        "max_concurrent": 2,
        **STOCK[name],
    }
    sweep = Watched(job, in_threads=True)
    assert {row["status"] for row in sweep.rows} <= {"finished", "stopped"}, sweep.rows
    learned = sorted(len(row["reports"]) for row in sweep.rows)
    assert learned[-1] == 3
    if name == "optuna":
        assert learned == [3, 3, 3, 3]
    if name == "optuna, halved":
        assert learned == [1, 1, 3, 3]
