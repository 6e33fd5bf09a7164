"""Which trials of a plan share their first task."""

from lamina.config import expand, first_stage, parse_job, shared_stages


def job(**changes):
    return parse_job(
        {
            "name": "x",
            "stream": {"name": "assistant"},
            "scenario": {"kind": "class_incremental", "num_tasks": 3},
            "backbone": {"name": "minilm"},
            "adapter": {"kind": "lora"},
            "strategy": {"name": "ewc"},
            "memory": {"policy": "ring", "size": 5},
            **changes,
        }
    )


def names(stage):
    return [point.trial.name for point in stage.points]


def test_trials_that_differ_in_what_matters_later_share_a_stage():
    plan = expand(
        job(
            sweep={
                "variants": [
                    {"strategy": {"name": "ewc"}},
                    {"strategy": {"name": "er"}},
                    {"strategy": {"name": "finetune"}},
                ],
                "space": {
                    "strategy.strength": {"grid_search": [1.0, 10.0]},
                    "strategy.replay_size": {"grid_search": [4, 8, 16]},
                    "training.learning_rate": {"grid_search": [0.1, 0.2]},
                },
            }
        )
    )
    stages = shared_stages(plan)
    assert [(len(stage.points), stage.num_trials, stage.late) for stage in stages] == [
        (2, 2, ("strategy.strength", "strategy.decay")),
        (2, 2, ("strategy.strength", "strategy.decay")),
        (3, 3, ("strategy.replay_size",)),
        (3, 3, ("strategy.replay_size",)),
    ]
    assert all("lr0.1" in name for name in names(stages[0]))


def test_draws_of_what_matters_later_share_and_others_may_not():
    sweep = {"num_samples": 4, "space": {"strategy.strength": {"loguniform": [1.0, 10.0]}}}
    (stage,) = shared_stages(expand(job(sweep=sweep)))
    assert (len(stage.points), stage.num_trials) == (1, 4)
    sweep["space"]["training.learning_rate"] = {"loguniform": [1e-4, 1e-2]}
    assert shared_stages(expand(job(sweep=sweep))) == ()


def test_what_a_memory_keeps_matters_when_the_first_task_ends():
    sweep = {
        "variants": [{"strategy": {"name": "er"}}],
        "space": {"memory.size": {"grid_search": [5, 10]}},
    }
    assert shared_stages(expand(job(sweep=sweep))) == ()


def test_a_stage_does_not_depend_on_where_a_trial_runs():
    here = first_stage(job(output_dir="a", hosts={"count": 1}))
    there = first_stage(job(output_dir="b", hosts={"count": 2}))
    assert here == there
    assert first_stage(job(seed=1)) != here


def test_streams_without_a_first_task_to_share_have_no_stage():
    assert first_stage(job(scenario={"kind": "joint"})) is None
    er = {"strategy": {"name": "er"}}
    assert first_stage(job(**er)) is not None
    assert first_stage(job(**er, scenario={"kind": "task_free", "num_tasks": 3})) is None
    online = {"kind": "class_incremental", "num_tasks": 3, "online": True}
    assert first_stage(job(**er, scenario=online)) is None
    assert first_stage(job(strategy={"name": "finetune"})) is None
