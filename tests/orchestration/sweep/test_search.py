"""What a job says of searching, as Ray Tune's objects; nothing here starts Ray."""

import numpy as np
import pytest
from ray.tune.schedulers import (
    SCHEDULER_IMPORT,
    AsyncHyperBandScheduler,
    PopulationBasedTraining,
)
from ray.tune.schedulers.pb2 import PB2
from ray.tune.search import SEARCH_ALG_IMPORT, BasicVariantGenerator, ConcurrencyLimiter
from ray.tune.search.sample import Categorical, Float

from lamina.config import expand, parse_job
from lamina.orchestration.sweep.schedulers import make_scheduler
from lamina.orchestration.sweep.search import POINT, param_space, trial_of
from lamina.orchestration.sweep.searchers import check_searcher, make_searcher
from lamina.orchestration.sweep.thin_trial import configuration
from lamina.registry import InputError

SPACE = {
    "training.learning_rate": {"loguniform": [1e-4, 1e-2]},
    "memory.size": {"grid_search": [10, 20]},
}


LR = "training.learning_rate"


def plan_of(space=SPACE, **sweep):
    """The plan of a job with this sweep."""
    return expand(
        parse_job(
            {
                "name": "x",
                "stream": {"name": "assistant"},
                "scenario": {"kind": "class_incremental"},
                "backbone": {"name": "minilm"},
                "adapter": {"kind": "lora"},
                "strategy": {"name": "er"},
                "memory": {"policy": "ring", "size": 5},
                "sweep": {"space": space, **sweep},
            }
        )
    )


@pytest.fixture
def plan():
    return plan_of()


def scheduler_of(scheduler, space=SPACE, num_tasks=4, metric_of="validation/average_accuracy"):
    return make_scheduler(plan_of(space, scheduler=scheduler, metric=metric_of), num_tasks)


def test_without_a_searcher_every_point_has_its_turn_and_the_rest_is_drawn(plan):
    space = param_space(plan, searching=False)
    assert space[POINT] == {"grid_search": [0, 1]}
    assert isinstance(space["training.learning_rate"], Float)
    assert set(space) == {POINT, "training.learning_rate"}


def test_a_searcher_chooses_the_point_too(plan):
    assert isinstance(param_space(plan, searching=True)[POINT], Categorical)


def test_a_configuration_stands_for_a_whole_job(plan):
    trial = trial_of(plan, {POINT: 1, "training.learning_rate": 0.005})
    assert trial.job.mapping["training"]["learning_rate"] == 0.005
    assert trial.job.mapping["memory"]["size"] == 20


def test_numbers_of_numpy_and_whole_numbers_with_a_point_are_plain_in_a_job():
    plan = plan_of({"memory.size": {"randint": [5, 50]}, LR: {"uniform": [1e-4, 1e-2]}})
    drawn = {POINT: np.int64(0), "memory.size": 7.0, LR: np.float64(0.5)}
    mapping = trial_of(plan, drawn).job.mapping
    assert mapping["memory"]["size"] == 7
    assert mapping["training"]["learning_rate"] == 0.5
    assert configuration("s", drawn) == configuration("s", {**drawn, POINT: 0, LR: 0.5})


def test_a_configuration_means_something_in_one_sweep_only():
    assert configuration("one", {POINT: 0}) != configuration("another", {POINT: 0})


def test_the_unit_of_time_of_a_scheduler_is_the_task():
    scheduler = scheduler_of({"name": "asha", "grace_period": 2})
    assert isinstance(scheduler, AsyncHyperBandScheduler)
    assert scheduler._time_attr == "task"
    assert (
        scheduler_of({"name": "pbt", "hyperparam_mutations": {LR: [1e-4]}})._perturbation_interval
        == 1
    )
    assert scheduler_of({"name": "median_stopping_rule"})._grace_period == 1
    assert scheduler_of({"name": "hyperband"})._max_t_attr == 4


def test_no_scheduler_and_fifo_let_every_trial_end_by_itself():
    assert make_scheduler(plan_of(), 4) is None
    assert scheduler_of({"name": "fifo"}) is None


def test_mutations_of_population_based_training_are_lists_or_domains():
    space = {LR: {"loguniform": [1e-4, 1e-2]}, "training.epochs": {"choice": [1, 2, 3]}}
    mutations = {LR: {"loguniform": [1e-4, 1e-2]}, "training.epochs": {"choice": [1, 2]}}
    scheduler = scheduler_of({"name": "pbt", "hyperparam_mutations": mutations}, space)
    assert isinstance(scheduler, PopulationBasedTraining)
    assert isinstance(scheduler._hyperparam_mutations[LR], Float)
    assert scheduler._hyperparam_mutations["training.epochs"] == [1, 2]


def test_bounds_of_pb2_are_by_dotted_key_as_tunes_configurations_are():
    for bounds in ([1e-4, 1e-2], {"uniform": [1e-4, 1e-2]}):
        scheduler = scheduler_of({"name": "pb2", "hyperparam_bounds": {LR: bounds}})
        assert isinstance(scheduler, PB2)
        assert scheduler._hyperparam_bounds == {LR: [1e-4, 1e-2]}


UNIFORM = {LR: {"uniform": [1e-4, 1e-2]}}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "ashaa"}, "sweep.scheduler.name: 'ashaa' is unknown; did you mean 'asha'"),
        (
            {"name": "asha", "grace_perod": 2},
            "sweep.scheduler.grace_perod: unknown key; did you mean 'grace_period'",
        ),
        ({"name": "asha", "reduction_factor": 0.5}, "reduction_factor: 0.5 is not allowed"),
        ({"name": "hyperband", "reduction_factor": 0}, "reduction_factor: 0.0 is not allowed"),
        ({"name": "hyperband", "max_t": -3}, "sweep.scheduler.max_t: -3 is not allowed"),
        (
            {"name": "hyperband", "max_t": 5},
            "sweep.scheduler.max_t: 5 is not allowed (allowed: 1 to 4",
        ),
        ({"name": "hyperband", "reduction_factor": 17}, "as nothing is halved in 4 tasks above"),
        ({"name": "asha", "brackets": 50, "reduction_factor": 2}, "(allowed: 1 to 2; a later one"),
        ({"name": "asha", "brackets": 2, "grace_period": 2}, "brackets: 2 is not allowed (allowed"),
        ({"name": "asha", "brackets": 0}, "sweep.scheduler.brackets: 0 is not allowed"),
        ({"name": "median_stopping_rule", "min_samples_required": 0}, "(allowed: 1 to 1)"),
        ({"name": "median_stopping_rule", "min_samples_required": 9}, "(allowed: 1 to 1)"),
        (
            {"name": "pbt", "hyperparam_mutations": {LR: [1e-4]}, "perturbation_interval": 0.5},
            "sweep.scheduler.perturbation_interval: 0.5 is not allowed (allowed: at least 1)",
        ),
        (
            {"name": "pbt", "hyperparam_mutations": {LR: [1e-4]}, "perturbation_factors": [-1, 2]},
            "sweep.scheduler.perturbation_factors: ",
        ),
        (
            {"name": "pb2", "hyperparam_bounds": {LR: [1e-4, 1e-2]}, "quantile_fraction": 0},
            "sweep.scheduler.quantile_fraction: 0.0 is not allowed (allowed: above 0, up to 0.5)",
        ),
        (
            {"name": "pbt", "hyperparam_mutations": {LR: [1e-4]}, "resample_probability": 3},
            "sweep.scheduler.resample_probability: 3.0 is not allowed (allowed: 0 to 1)",
        ),
        (
            {"name": "pbt", "hyperparam_mutations": [LR]},
            "hyperparam_mutations: ['training.learning_rate'] is not allowed",
        ),
        ({"name": "asha", "metric": "test/x"}, "sweep.scheduler.metric: unknown"),
        ({"name": "asha", "grace_period": "two"}, "sweep.scheduler.grace_period: 'two' is not"),
        ({"name": "asha", "grace_period": 4}, "sweep.scheduler.grace_period: 4 tasks are never"),
        ({"name": "asha", "num_tasks": 1}, "sweep.scheduler: 'asha' looks at trials between"),
        ({"name": "pbt"}, "sweep.scheduler.hyperparam_mutations: missing"),
        ({"name": "pbt", "hyperparam_mutations": {}}, "hyperparam_mutations: missing"),
        ({"name": "pb2"}, "sweep.scheduler.hyperparam_bounds: missing"),
        (
            {"name": "pbt", "hyperparam_mutations": {"training.learning_rat": [1e-4]}},
            "is unknown; did you mean 'training.learning_rate'",
        ),
        ({"name": "pbt", "hyperparam_mutations": {LR: [-1.0]}}, f"{LR}: -1.0 is not positive"),
        ({"name": "pbt", "hyperparam_mutations": {LR: 0.1}}, f"{LR}: 0.1 is not allowed"),
        (
            {"name": "pbt", "hyperparam_mutations": {LR: [1e-4]}, "custom_explore_fn": "f"},
            "sweep.scheduler.custom_explore_fn: unknown key",
        ),
        ({"name": "pb2", "hyperparam_bounds": {LR: [1e-2]}}, "(allowed: two numbers, [low, high])"),
        ({"name": "pb2", "hyperparam_bounds": {LR: [1e-2, 1e-4]}}, "[0.01, 0.0001] is not allowed"),
        ({"name": "pb2", "hyperparam_bounds": {LR: [1e-2, 1e-2]}}, "[0.01, 0.01] is not allowed"),
        ({"name": "pb2", "hyperparam_bounds": {LR: ["a", "b"]}}, "['a', 'b'] is not allowed"),
        (
            {
                "name": "pbt",
                "space": {"adapter.rank": {"choice": [2, 4]}},
                "hyperparam_mutations": {"adapter.rank": [2, 4]},
            },
            "adapter.rank: a fork cannot change it, as its tensors are in the checkpoint",
        ),
        ({"name": "pbt_replay", "policy_file": "x"}, "'pbt_replay' replays a file"),
        ({"name": "resource_changing"}, "'resource_changing' changes what a trial takes"),
        ({"name": "hb_bohb"}, "'hb_bohb' needs the searcher 'bohb'"),
        (
            {"name": "hyperband", "metric_of": "validation/forgetting"},
            "is undefined after the first",
        ),
    ],
)
def test_a_scheduler_that_cannot_do_as_it_is_told_is_refused_in_one_line(settings, said):
    given = dict(settings)
    about = {key: given.pop(key) for key in ("num_tasks", "space", "metric_of") if key in given}
    with pytest.raises(InputError) as raised:
        scheduler_of(given, **about)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "space", "said"),
    [
        ({"name": "optunaa"}, SPACE, "sweep.searcher.name: 'optunaa' is unknown; did you mean"),
        ({"name": "optuna", "sampling": 1}, SPACE, "sweep.searcher.sampling: unknown key"),
        ({"name": "optuna", "seed": "x"}, SPACE, "sweep.searcher.seed: 'x' is not allowed"),
        ({"name": "random", "max_concurrent": 2}, SPACE, "sweep.searcher.max_concurrent: unknown"),
        ({"name": "bohb"}, SPACE, "sweep.searcher.name: 'bohb' "),
        (
            {"name": "random", "points_to_evaluate": [{LR: 1e-3}, {"training.learning_rat": 1}]},
            SPACE,
            "sweep.searcher.points_to_evaluate.1.training.learning_rat: 'training.learning_rat' is",
        ),
        (
            {"name": "optuna", "points_to_evaluate": [{LR: 0.5}]},
            SPACE,
            "points_to_evaluate.0.training.learning_rate: 0.5 is not allowed (allowed: what",
        ),
        (
            {"name": "optuna"},
            {LR: {"qloguniform": [1e-4, 1e-2, 1e-4]}},
            "sweep.searcher: 'optuna' cannot search this space: Optuna does not handle",
        ),
    ],
)
def test_a_searcher_that_cannot_do_as_it_is_told_is_refused_in_one_line(settings, space, said):
    with pytest.raises(InputError) as raised:
        check_searcher(plan_of(space, searcher=settings))
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def refusal_of(make):
    """What is said of what cannot be made; nothing where it can."""
    try:
        make()
    except InputError as error:
        return str(error)
    return None


VARIED = {
    "pbt": {"hyperparam_mutations": {LR: [1e-4, 1e-2]}},
    "pb2": {"hyperparam_bounds": {LR: [1e-4, 1e-2]}},
}


@pytest.mark.parametrize("name", SCHEDULER_IMPORT)
def test_every_scheduler_of_ray_tune_is_made_or_refused_in_one_line(name):
    refusal = refusal_of(lambda: scheduler_of({"name": name, **VARIED.get(name, {})}))
    assert (refusal is not None) == (name in ("hb_bohb", "pbt_replay", "resource_changing"))
    assert refusal is None or refusal.startswith(f"sweep.scheduler.name: {name!r} ")
    assert "\n" not in (refusal or "")


@pytest.mark.parametrize("name", SEARCH_ALG_IMPORT)
def test_every_searcher_of_ray_tune_answers_or_is_refused_in_one_line(name):
    refusal = refusal_of(lambda: check_searcher(plan_of(UNIFORM, searcher={"name": name})))
    assert refusal is None or refusal.startswith(f"sweep.searcher.name: {name!r} ")
    assert refusal is None or name not in ("optuna", "random", "variant_generator")
    assert "\n" not in (refusal or "")


def test_drawing_at_random_is_seeded_by_the_job():
    searcher = make_searcher(plan_of(), 2)
    assert isinstance(searcher, BasicVariantGenerator)
    again = make_searcher(plan_of(searcher={"name": "random"}), 2)
    assert searcher._random_state.uniform() == again._random_state.uniform()
    other = make_searcher(plan_of(searcher={"name": "random", "random_state": 3}), 2)
    assert other._random_state.uniform() != make_searcher(plan_of(), 2)._random_state.uniform()


def test_a_named_searcher_is_limited_to_as_many_trials_as_there_are_hosts_for():
    searcher = make_searcher(plan_of(searcher={"name": "optuna"}), 3)
    assert isinstance(searcher, ConcurrencyLimiter)
    assert searcher.max_concurrent == 3
