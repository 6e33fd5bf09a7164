"""A stock scheduler on real Ray: what it stops leaves its host at once."""

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
    sweep = Watched(job)
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
