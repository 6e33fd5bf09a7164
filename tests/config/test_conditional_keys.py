"""Keys of a space that matter only beside some values of others: where they vary, where they do
not, and which are refused."""

import pytest

from lamina.config import ConfigError, expand, parse_job
from lamina.config.space import FUNCTIONS

ARGUMENTS = {
    "grid_search": [3, 5],
    "choice": [3, 5],
    "uniform": [0.1, 0.9],
    "quniform": [0.1, 0.5, 0.1],
    "loguniform": [0.1, 0.9],
    "qloguniform": [0.1, 0.5, 0.1],
    "randint": [2, 9],
    "qrandint": [2, 8, 2],
    "lograndint": [2, 9],
    "qlograndint": [2, 8, 2],
    "randn": {"mean": 0.5, "sd": 0.1},
    "qrandn": [0.5, 0.1, 0.1],
}
WHOLE = [name for name in FUNCTIONS if "int" in name or name in ("grid_search", "choice")]
BROKEN = [name for name in FUNCTIONS if name not in WHOLE]


def plan_of(small, space, variants=(), **sweep):
    given = {"space": space, "variants": list(variants), **sweep}
    return expand(parse_job({**small, "sweep": given}))


def problems_of(small, space, **sweep):
    with pytest.raises(ConfigError) as error:
        plan_of(small, space, **sweep)
    return error.value.problems


def names(plan):
    return [point.trial.name for point in plan.points]


def test_there_are_arguments_for_every_sample_function():
    assert ARGUMENTS.keys() == set(FUNCTIONS)


@pytest.mark.parametrize("function", WHOLE)
@pytest.mark.parametrize("deciding", ["choice", "grid_search"])
def test_a_whole_number_of_one_kind_may_vary_while_the_kind_does(small, deciding, function):
    space = {
        "adapter.kind": {deciding: ["lora", "prompt"]},
        "adapter.length": {function: ARGUMENTS[function]},
    }
    plan = plan_of(small, space)
    assert "adapter.length does not vary for finetune-lora: it has no such setting" in plan.notes
    for point in plan.points:
        for kind in ("lora", "prompt"):
            trial = plan.trial(point, {"adapter.kind": kind, "adapter.length": 4})
            drawn_kind = kind if deciding == "choice" else point.trial.job.adapter.name
            assert trial.job.adapter.name == drawn_kind
            if drawn_kind == "prompt":
                expected = (3, 5) if function == "grid_search" else (4,)
                assert trial.job.adapter.length in expected
            assert trial.name.startswith(f"finetune-{drawn_kind}")


@pytest.mark.parametrize("function", BROKEN)
def test_a_number_of_one_strategy_may_vary_while_the_strategy_does(small, function):
    space = {
        "strategy.name": {"choice": ["finetune", "lwf"]},
        "strategy.temperature": {function: ARGUMENTS[function]},
    }
    plan = plan_of(small, space)
    (point,) = plan.points
    assert point.domains == ("strategy.name", "strategy.temperature")
    lwf = plan.trial(point, {"strategy.name": "lwf", "strategy.temperature": 0.25})
    assert (lwf.name, lwf.job.strategy.temperature) == ("lwf-lora-temperature0.25", 0.25)
    plain = plan.trial(point, {"strategy.name": "finetune", "strategy.temperature": 0.25})
    assert plain.job.mapping["strategy"] == {"name": "finetune"}
    assert plain.name == "finetune-lora"


@pytest.mark.parametrize("base", ["linear_probe", "er"])
def test_a_key_of_the_other_strategy_is_allowed_whichever_is_the_base(small, base):
    space = {
        "strategy.name": {"choice": ["linear_probe", "er"]},
        "strategy.replay_size": {"randint": [2, 9]},
    }
    (point,) = plan_of({**small, "strategy": {"name": base}}, space).points
    assert set(point.domains) == set(space)


def test_a_section_that_only_some_strategies_use_is_drawn_for_them_alone(small):
    space = {
        "strategy.name": {"choice": ["simplecil", "er"]},
        "memory.size": {"randint": [10, 20]},
        "adapter.rank": {"choice": [1, 2]},
    }
    small["strategy"] = {"name": "simplecil"}
    plan = plan_of(small, space)
    (point,) = plan.points
    drawn = {"strategy.name": "er", "memory.size": 11, "adapter.rank": 2}
    er = plan.trial(point, drawn).job
    assert (er.memory.size, er.adapter.rank) == (11, 2)
    simplecil = plan.trial(point, {**drawn, "strategy.name": "simplecil"}).job
    assert (simplecil.memory, simplecil.adapter) == (None, None)


def test_a_policy_a_source_and_a_partition_may_be_drawn_with_keys_of_their_own(small):
    small["strategy"] = {"name": "er"}
    space = {
        "memory.policy": {"choice": ["ring", "reservoir"]},
        "federation.partition.kind": {"choice": ["iid", "dirichlet", "shard"]},
        "federation.partition.alpha": {"loguniform": [0.1, 10]},
        "federation.partition.shards": {"randint": [1, 4]},
    }
    small["federation"] = {"clients": 3}
    plan = plan_of(small, space)
    (point,) = plan.points
    drawn = {
        "memory.policy": "ring",
        "federation.partition.kind": "shard",
        "federation.partition.alpha": 0.5,
        "federation.partition.shards": 3,
    }
    partition = plan.trial(point, drawn).job.federation.partition
    assert (type(partition).__name__, partition.shards) == ("Shard", 3)


def test_a_grid_that_only_a_drawn_kind_has_keeps_its_values(small):
    space = {
        "adapter.kind": {"choice": ["lora", "prompt"]},
        "adapter.length": {"grid_search": [3, 5]},
    }
    plan = plan_of(small, space)
    lengths = [plan.trial(p, {"adapter.kind": "prompt"}).job.adapter.length for p in plan.points]
    assert lengths == [3, 5]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("deciding", ["choice", "grid_search"])
def test_a_key_that_no_kind_has_is_refused_with_the_nearest(small, deciding, function):
    space = {
        "adapter.kind": {deciding: ["lora", "prompt"]},
        "adapter.lenght": {function: ARGUMENTS[function]},
    }
    assert problems_of(small, space) == [
        "sweep.space.adapter.lenght: unknown key; did you mean 'length'? "
        "(allowed in adapter: alpha, dropout, kind, layers, length, rank, targets)"
    ]


def test_a_misspelt_key_of_a_section_without_use_is_refused_all_the_same(small):
    small["strategy"] = {"name": "simplecil"}
    (problem,) = problems_of(small, {"adapter.rnak": {"grid_search": [1, 2]}})
    assert problem.startswith("sweep.space.adapter.rnak: unknown key; did you mean 'rank'?")


def test_a_value_that_the_kind_cannot_take_is_told_although_the_base_is_another(small):
    space = {
        "adapter.kind": {"choice": ["lora", "prompt"]},
        "adapter.length": {"choice": [3, "long"]},
    }
    assert problems_of(small, space) == [
        "sweep.space.adapter.length: 'long' is not allowed (allowed: a whole number)"
    ]


def test_a_drawn_kind_that_the_strategy_cannot_train_is_told(small):
    small["strategy"] = {"name": "olora"}
    assert problems_of(small, {"adapter.kind": {"choice": ["lora", "prompt"]}}) == [
        "sweep.space.adapter.kind: 'prompt' does not go with strategy 'olora' (allowed: lora)"
    ]


def test_hyper_parameters_of_a_variants_strategy_do_not_pass_to_the_one_that_is_drawn(small):
    variants = [{"strategy": {"name": "ewc", "strength": 7.0}}]
    plan = plan_of(small, {"seed": {"choice": [1, 2]}}, variants)
    assert plan.points[0].trial.job.strategy.strength == 7.0
    space = {"strategy.name": {"choice": ["ewc", "lwf"]}}
    small["strategy"] = {"name": "ewc", "strength": 7.0}
    plan = plan_of(small, space)
    (point,) = plan.points
    assert plan.trial(point, {"strategy.name": "lwf"}).job.strategy.strength == 1.0
    assert plan.trial(point, {"strategy.name": "ewc"}).job.strategy.strength == 7.0


@pytest.mark.parametrize("function", ["grid_search", "choice", "uniform", "loguniform", "quniform"])
def test_momentum_varies_for_sgd_alone(small, function):
    values = [0.1, 0.5] if function in ("grid_search", "choice") else ARGUMENTS[function]
    space = {
        "training.optimizer": {"grid_search": ["adamw", "sgd"]},
        "training.momentum": {function: values},
    }
    plan = plan_of(small, space, num_samples=3)
    said = "training.momentum does not vary for finetune-lora: training.optimizer is 'adamw'"
    assert said in plan.notes
    if function == "grid_search":
        assert names(plan) == [
            "finetune-lora-optimizeradamw",
            "finetune-lora-optimizersgd-momentum0.1",
            "finetune-lora-optimizersgd-momentum0.5",
        ]
    else:
        assert [(plan.num_draws(point), point.domains) for point in plan.points] == [
            (1, ()),
            (3, ("training.momentum",)),
        ]


def test_what_a_drawn_optimiser_does_not_have_is_ignored_where_it_is_drawn(small):
    space = {
        "training.optimizer": {"choice": ["adamw", "sgd"]},
        "training.momentum": {"uniform": [0.1, 0.5]},
    }
    plan = plan_of(small, space)
    (point,) = plan.points
    sgd = plan.trial(point, {"training.optimizer": "sgd", "training.momentum": 0.25})
    assert sgd.job.training.momentum == 0.25
    adamw = plan.trial(point, {"training.optimizer": "adamw", "training.momentum": 0.25})
    assert "momentum" not in adamw.job.mapping["training"]
    assert "momentum" not in adamw.name
