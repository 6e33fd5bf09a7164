"""Variants times grids: what is tried, what is left out, and what is refused."""

import json
from pathlib import Path

import pytest

from lamina.config import ConfigError, expand, load_job, lone_trial, parse_job

JOBS = sorted(
    path
    for path in (Path(__file__).parents[2] / "jobs").glob("*.yaml")
    if path.name != "runtime_env.yaml"
)


def plan_of(small, **sweep):
    return expand(parse_job({**small, "sweep": sweep}))


def names(plan):
    return [point.trial.name for point in plan.points]


def problems_of(small, **sweep):
    with pytest.raises(ConfigError) as error:
        plan_of(small, **sweep)
    return error.value.problems


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_every_shipped_job_expands_and_runs_as_it_stands(path):
    job = load_job(path)
    plan = expand(job)
    assert len({json.dumps(point.trial.job.mapping) for point in plan.points}) == plan.num_trials
    assert lone_trial(job, {}).job.sweep is None


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_every_shipped_job_says_the_command_that_runs_it(path):
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(f"jobs/{path.name}" in line for line in comments)


def test_the_readmes_command_runs_a_single_trial_of_the_main_job():
    path = next(path for path in JOBS if path.stem == "quickstart")
    overrides = {"strategy.name": "er", "seed": 3}
    job = load_job(path, ["strategy.name=er", "seed=3"])
    trial = lone_trial(job, overrides)
    assert trial.name == "er-lora-seed3"
    assert (trial.job.strategy_name, trial.job.seed) == ("er", 3)


def test_a_job_without_a_sweep_is_one_trial(small):
    plan = expand(parse_job(small))
    assert names(plan) == ["finetune-lora"]
    assert plan.points[0].trial.settings == {}


def test_variants_times_grid(small):
    plan = plan_of(
        small,
        variants=[{"strategy": {"name": "er"}}, {"strategy.name": "ewc", "strategy.strength": 5}],
        space={"training.learning_rate": {"grid_search": [0.001, 0.002]}},
    )
    assert names(plan) == [
        "er-lora-lr0.001",
        "er-lora-lr0.002",
        "ewc-lora-lr0.001",
        "ewc-lora-lr0.002",
    ]
    assert plan.points[2].trial.settings == {
        "strategy.strength": 5.0,
        "training.learning_rate": 0.001,
    }
    assert plan.points[1].trial.job.training.learning_rate == 0.002
    assert plan.points[3].trial.job.strategy.strength == 5.0
    assert plan.notes == ()


def test_a_trials_mapping_is_a_whole_job_by_itself(small):
    plan = plan_of(small, space={"adapter.rank": {"grid_search": [1, 2]}})
    for point in plan.points:
        job = point.trial.job
        assert job.sweep is None
        assert parse_job(json.loads(json.dumps(job.mapping))) == job
        assert job.mapping == job.settings()


def test_a_key_that_a_variant_fixes_does_not_vary_in_it(small):
    plan = plan_of(
        small,
        variants=[
            {"strategy": {"name": "er"}},
            {"strategy": {"name": "lwf"}, "training": {"learning_rate": 0.5}},
            {"strategy": {"name": "ewc"}, "adapter": None},
        ],
        space={
            "training.learning_rate": {"grid_search": [0.1, 0.2]},
            "adapter.rank": {"grid_search": [1, 2]},
        },
    )
    assert names(plan) == [
        "er-lora-rank1-lr0.1",
        "er-lora-rank2-lr0.1",
        "er-lora-rank1-lr0.2",
        "er-lora-rank2-lr0.2",
        "lwf-lora-rank1",
        "lwf-lora-rank2",
        "ewc-lr0.1",
        "ewc-lr0.2",
    ]


def test_what_a_strategy_has_no_use_for_makes_no_further_trials(small):
    plan = plan_of(
        small,
        variants=[{"strategy": {"name": name}} for name in ("simplecil", "er")],
        space={
            "training.learning_rate": {"grid_search": [0.1, 0.2]},
            "memory.size": {"grid_search": [10, 20]},
            "adapter.kind": {"grid_search": ["lora", "prefix"]},
        },
    )
    assert names(plan)[0] == "simplecil"
    assert len(plan.points) == 1 + 8
    assert set(plan.notes) == {
        "adapter.kind does not vary for simplecil: strategy 'simplecil' takes none",
        "memory.size does not vary for simplecil: strategy 'simplecil' replays nothing",
        "training.learning_rate does not vary for simplecil: strategy 'simplecil' takes no "
        "gradient step",
    }


def test_a_first_task_method_without_an_adapter_ignores_the_learning_rate(small):
    small["strategy"] = {"name": "ranpac", "projection": 8}
    space = {"training.learning_rate": {"grid_search": [0.1, 0.2]}}
    assert len(plan_of(small, space=space).points) == 2
    small["adapter"] = None
    assert names(plan_of(small, space=space)) == ["ranpac"]


def test_a_setting_that_one_kind_lacks_varies_for_the_others(small):
    small["memory"] = None
    plan = plan_of(
        small,
        variants=[{"adapter": {"kind": "lora"}}, {"adapter": {"kind": "prefix"}}],
        space={"adapter.rank": {"grid_search": [2, 4]}},
    )
    assert names(plan) == ["finetune-lora-rank2", "finetune-lora-rank4", "finetune-prefix"]
    assert plan.notes == ("adapter.rank does not vary for finetune-prefix: it has no such setting",)


def test_names_may_be_a_grid_and_take_only_settings_that_they_have(small):
    plan = plan_of(
        small,
        space={
            "adapter.kind": {"grid_search": ["lora", "prefix"]},
            "adapter.length": {"grid_search": [3, 5]},
        },
    )
    assert names(plan) == ["finetune-lora", "finetune-prefix-length3", "finetune-prefix-length5"]


def test_equal_variants_are_one_trial(small):
    small["memory"] = None
    plan = plan_of(small, variants=[{"seed": 1}, {"seed": 1, "adapter.rank": 4}])
    assert len(plan.points) == 1
    (note,) = plan.notes
    assert note.startswith("sweep.variants, number 2 (finetune-lora): left out, as it repeats")


def test_a_variant_that_is_given_twice_is_one_trial_and_that_is_said(small):
    small["memory"] = None
    plan = plan_of(small, variants=[{"seed": 1}, {"seed": 1}])
    assert len(plan.points) == 1
    assert plan.notes == (
        "sweep.variants, number 2 (finetune-lora): left out, as it repeats another variant",
    )


def test_a_value_that_a_grid_gives_twice_is_one_trial_and_that_is_said(small):
    small["memory"] = None
    plan = plan_of(small, space={"seed": {"grid_search": [3, 3, 4]}})
    assert plan.num_trials == 2
    assert plan.notes == ("sweep.space.seed: 3 is given 2 times and tried once",)


def test_names_tell_apart_what_only_a_default_tells_apart(small):
    plan = plan_of(small, variants=[{}, {"scenario.shuffle": True}, {"adapter.layers": [0, 1]}])
    assert names(plan) == [
        "finetune-lora-shuffleFalse-no_layers",
        "finetune-lora-shuffleTrue-no_layers",
        "finetune-lora-shuffleFalse-layers_0_1",
    ]


def test_random_domains_stay_for_ray_tune_and_are_laid_over_a_point(small):
    plan = plan_of(
        small,
        variants=[{"strategy": {"name": name}} for name in ("finetune", "er", "simplecil")],
        space={
            "training.learning_rate": {"loguniform": [1e-4, 1e-2]},
            "memory.size": {"randint": [10, 20]},
            "seed": {"grid_search": [0, 1]},
        },
        num_samples=3,
    )
    assert set(plan.domains) == {"training.learning_rate", "memory.size"}
    by_name = {point.trial.name: point for point in plan.points}
    assert by_name["finetune-lora-seed1"].domains == ("training.learning_rate",)
    assert by_name["er-lora-seed1"].domains == ("training.learning_rate", "memory.size")
    assert by_name["simplecil-seed1"].domains == ()
    assert plan.num_trials == 2 * 3 + 2 * 3 + 2 * 1
    drawn = {"training.learning_rate": 0.0033, "memory.size": 11, "point": 1}
    er = plan.trial(by_name["er-lora-seed1"], drawn)
    assert er.name == "er-lora-seed1-lr0.0033-size11"
    assert (er.job.training.learning_rate, er.job.memory.size, er.job.seed) == (0.0033, 11, 1)
    assert er.settings == {"seed": 1, "training.learning_rate": 0.0033, "memory.size": 11}
    alone = plan.trial(by_name["simplecil-seed1"], drawn)
    assert alone == by_name["simplecil-seed1"].trial


def test_a_name_may_be_drawn_at_random(small):
    plan = plan_of(
        small,
        space={"adapter.kind": {"choice": ["lora", "prefix"]}, "adapter.rank": {"randint": [1, 9]}},
    )
    (point,) = plan.points
    assert plan.trial(point, {"adapter.kind": "lora", "adapter.rank": 3}).job.adapter.rank == 3
    prefix = plan.trial(point, {"adapter.kind": "prefix", "adapter.rank": 3}).job.adapter
    assert prefix.name == "prefix"


def test_samples_of_a_grid_alone_are_said_to_change_nothing(small):
    small["memory"] = None
    plan = plan_of(small, space={"seed": {"grid_search": [0, 1]}}, num_samples=4)
    assert plan.num_trials == 2
    assert plan.notes == ("sweep.num_samples: 4 changes nothing, as nothing is drawn at random",)


@pytest.mark.parametrize(
    ("sweep", "line"),
    [
        (
            {"space": {"training.learning_rat": {"grid_search": [1]}}},
            "sweep.space.training.learning_rat: unknown key; did you mean 'learning_rate'?",
        ),
        (
            {"space": {"adapter.rnak": {"grid_search": [1]}}},
            "sweep.space.adapter.rnak: unknown key; did you mean 'rank'? (allowed in adapter: ",
        ),
        (
            {"space": {"trainin.epochs": {"grid_search": [1]}}},
            "sweep.space.trainin: cannot vary; did you mean 'training'?",
        ),
        (
            {"space": {"output_dir": {"choice": ["a"]}}},
            "sweep.space.output_dir: cannot vary",
        ),
        (
            {"space": {"training": {"choice": ["a"]}}},
            "sweep.space.training: is a section (allowed: one of its keys",
        ),
        (
            {"space": {"training.learning_rate": {"grid_search": [0.1, "abc"]}}},
            "sweep.space.training.learning_rate: 'abc' is not allowed (allowed: a number)",
        ),
        (
            {"space": {"training.epochs": {"uniform": [1, 5]}}},
            "sweep.space.training.epochs: 1.0 is not allowed (allowed: a whole number)",
        ),
        (
            {"space": {"adapter.rank": {"randint": [0, 5]}}},
            "sweep.space.adapter.rank: 0 is not positive",
        ),
        (
            {"space": {"strategy.name": {"grid_search": ["er", "ewcc"]}}},
            "sweep.space.strategy.name: 'ewcc' is unknown; did you mean 'ewc'?",
        ),
        (
            {"variants": [{}, {"strategy": {"name": "ewcc"}}]},
            "sweep.variants, number 2: strategy.name: 'ewcc' is unknown; did you mean 'ewc'?",
        ),
        (
            {"variants": [{"strategy": {"name": "er"}, "memory": None}]},
            "sweep.variants, number 1: memory: missing, and strategy 'er' draws from one",
        ),
        (
            {"variants": [{"output_dir": "elsewhere"}]},
            "sweep.variants, number 1: output_dir cannot vary (allowed: seed, stream,",
        ),
        (
            {
                "variants": [{"strategy": {"name": "olora"}}],
                "space": {"adapter.kind": {"grid_search": ["lora", "prefix"]}},
            },
            "sweep.space.adapter.kind: 'prefix' does not go with strategy 'olora' (allowed: lora)",
        ),
    ],
)
def test_each_bad_combination_is_one_line_before_anything_starts(small, sweep, line):
    (problem,) = set(problems_of(small, **sweep))
    assert problem.startswith(line)


def test_one_bad_value_is_one_line_however_many_variants_there_are(small):
    problems = problems_of(
        small,
        variants=[{"strategy": {"name": name}} for name in ("finetune", "er", "ewc")],
        space={
            "training.learning_rate": {"grid_search": ["abc", 0.1]},
            "training.epochs": {"grid_search": [1, 2]},
        },
    )
    assert problems == [
        "sweep.space.training.learning_rate: 'abc' is not allowed (allowed: a number)"
    ]


def test_variants_that_do_not_go_with_the_stream_are_refused_or_left_out_with_the_reason(small):
    variants = [{"strategy": {"name": "finetune"}}, {"strategy": {"name": "zero_shot"}}]
    sweep = {"variants": variants}
    with pytest.raises(ConfigError, match=r"number 2: .*'zero_shot' reads texts, .* of images"):
        expand(parse_job({**small, "sweep": sweep}))
    plan = expand(parse_job({**small, "sweep": {**sweep, "unfit": "skip"}}))
    assert [each.trial.job.strategy_name for each in plan.points] == ["finetune"]
    assert plan.notes[0].endswith("left out")
    broken = [*variants, {"strategy": {"name": "er", "replay_size": -1}}]
    with pytest.raises(ConfigError, match=r"number 3: strategy.replay_size: -1 is negative"):
        expand(parse_job({**small, "sweep": {"variants": broken, "unfit": "skip"}}))
    with pytest.raises(ConfigError, match="left out"):
        expand(parse_job({**small, "sweep": {"variants": variants[1:], "unfit": "skip"}}))


def test_a_scheduler_of_a_sweep_of_one_trial_is_said_to_change_nothing(small):
    small["sweep"] = {"scheduler": {"name": "asha"}}
    (note,) = expand(parse_job(small | {"memory": None})).notes
    assert note == "sweep.scheduler changes nothing: it compares trials, and the sweep has one"
