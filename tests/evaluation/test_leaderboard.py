"""Who comes first, always."""

import json
import random

from lamina.evaluation.leaderboard import leaderboard


def result(name, validation=None, test=None, status="finished", tasks=3, **metrics):
    reports = [
        {"metrics": {"cost/trainable_parameters": 10.0 * (task == 0)}, "num_tasks": 3}
        for task in range(tasks)
    ]
    if reports:
        last = {
            "validation/average_accuracy": validation,
            "test/average_accuracy": test,
            "cost/train_seconds": 2.0,
            "cost/evaluation_seconds": 0.5,
            **metrics,
        }
        reports[-1]["metrics"] |= {key: each for key, each in last.items() if each is not None}
    return {
        "trial": f"{name}-id",
        "name": name,
        "settings": {"seed": 1},
        "mapping": {
            "strategy": {"name": name},
            "adapter": {"kind": "lora"} if name != "bare" else None,
            "scenario": {"kind": "class_incremental"},
            "stream": {"name": "digits"},
            "backbone": {"name": "minilm"},
            "tracking": {"enabled": True, "mlflow_uri": None},
        },
        "status": status,
        "error": None,
        "reports": reports,
    }


def names(results, **order):
    return [row["name"] for row in leaderboard(results, **order)]


def test_validation_ranks_and_test_does_not():
    results = [result("a", validation=0.5, test=0.9), result("b", validation=0.6, test=0.1)]
    assert names(results) == ["b", "a"]


def test_the_job_may_rank_by_another_metric():
    key = "validation/forgetting"
    results = [result("a", 0.9, **{key: 0.3}), result("b", 0.5, **{key: 0.1}), result("c", 0.7)]
    assert names(results, metric=key, mode="min") == ["b", "a", "c"]
    assert names(results, metric=key, mode="max") == ["a", "b", "c"]


def test_whole_trials_come_before_stopped_ones_and_these_before_failed_ones():
    results = [
        result("failed", 0.99, status="failed", tasks=2),
        result("early", 0.98, status="stopped", tasks=1),
        result("later", 0.6, status="stopped", tasks=2),
        result("whole", 0.5),
        result("nothing", status="failed", tasks=0),
    ]
    assert names(results) == ["whole", "later", "early", "failed", "nothing"]


def test_it_says_whether_a_person_or_the_sweep_has_stopped_a_trial():
    results = [
        result("whole", 0.5) | {"hold": None},
        result("by hand", 0.6, status="stopped", tasks=2) | {"hold": "stop"},
        result("by asha", 0.6, status="stopped", tasks=1) | {"hold": None},
    ]
    said = {row["name"]: row["stopped_by"] for row in leaderboard(results)}
    assert said == {"whole": None, "by hand": "person", "by asha": "sweep"}


def test_ties_and_nulls_give_one_order_whatever_order_they_come_in():
    results = [
        result("tie_b", 0.5),
        result("tie_a", 0.5),
        result("bare", 0.5),
        result("null_b"),
        result("null_a"),
        result("nan", float("nan")),
    ]
    expected = names(results)
    assert expected == ["bare", "tie_a", "tie_b", "nan", "null_a", "null_b"]
    for seed in range(10):
        random.Random(seed).shuffle(results)
        assert names(results) == expected


def test_every_row_has_every_column_and_is_json():
    rows = leaderboard([result("a", 0.5, 0.4), result("b", float("nan")), result("c", tasks=0)])
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert len({tuple(row) for row in rows}) == 1
    best = rows[0]
    assert (best["rank"], best["strategy"], best["adapter"]) == (1, "a", "lora")
    assert best["trainable_parameters"] == 10, "the most that any task trains"
    assert best["seconds"] == 2.5
    assert best["average_accuracy"] == 0.4
    assert best["forgetting"] is None
    assert rows[-1]["num_tasks"] is None
