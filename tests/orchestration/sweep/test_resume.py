"""A sweep whose driver was killed goes on where it was."""

from watched import RAY, Watched, killed_driver, matrix, matrix_alone

pytestmark = RAY


def test_kill_9_of_the_driver_costs_no_task_that_was_reported(ray_cluster, make_job, tmp_path):
    job = make_job(tmp_path / "out")
    job["hosts"] = {"count": 1}
    del job["sweep"]
    with killed_driver(job) as events:
        reported = next(event for event in events if event["event"] == "reported")
    sweep = Watched(job, in_threads=True)
    (row,) = sweep.rows
    assert (row["trial"], row["status"]) == (reported["trial"], "finished")
    assert reported["report"]["task"] not in [
        event["report"]["task"] for event in sweep.of("reported")
    ]
    assert matrix(row["reports"]) == matrix_alone(row["mapping"])
