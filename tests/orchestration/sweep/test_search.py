"""What a job says of searching, as Ray Tune's objects; nothing here starts Ray."""

from functools import partial

import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, PopulationBasedTraining
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter
from ray.tune.search.sample import Categorical, Float

from lamina.config import SweepSettings, expand, parse_job
from lamina.orchestration.sweep.search import (
    POINT,
    make_scheduler,
    make_searcher,
    param_space,
    trial_of,
)
from lamina.registry import InputError

SPACE = {
    "training.learning_rate": {"loguniform": [1e-4, 1e-2]},
    "memory.size": {"grid_search": [10, 20]},
}


@pytest.fixture
def plan():
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
                "sweep": {"space": SPACE},
            }
        )
    )


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


def test_the_unit_of_time_of_a_scheduler_is_the_task():
    scheduler = make_scheduler(SweepSettings(scheduler={"name": "asha", "grace_period": 2}))
    assert isinstance(scheduler, AsyncHyperBandScheduler)
    assert scheduler._time_attr == "task"


def test_no_scheduler_lets_every_trial_end_by_itself():
    assert make_scheduler(SweepSettings()) is None


def test_mutations_of_population_based_training_are_lists_or_domains():
    mutations = {
        "training": {"learning_rate": {"loguniform": [1e-4, 1e-2]}, "epochs": [1, 2]},
        "seed": [0, 1],
    }
    scheduler = make_scheduler(
        SweepSettings(scheduler={"name": "pbt", "hyperparam_mutations": mutations})
    )
    assert isinstance(scheduler, PopulationBasedTraining)
    assert set(scheduler._hyperparam_mutations) == {
        "training.learning_rate",
        "training.epochs",
        "seed",
    }


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"scheduler": {"name": "ashaa"}},
            "sweep.scheduler.name: 'ashaa' is unknown; did you mean 'asha'",
        ),
        (
            {"scheduler": {"name": "asha", "grace_perod": 2}},
            "sweep.scheduler.grace_perod: unknown key; did you mean 'grace_period'",
        ),
        ({"scheduler": {"name": "asha", "reduction_factor": 0.5}}, "sweep.scheduler: "),
        ({"scheduler": {"name": "asha", "metric": "test/x"}}, "sweep.scheduler.metric: unknown"),
        ({"searcher": {"name": "optuna", "sampling": 1}}, "sweep.searcher.sampling: unknown key"),
        ({"searcher": {"name": "hyperopt"}}, "sweep.searcher: "),
    ],
)
def test_what_ray_tune_does_not_know_is_refused_by_name(settings, said):
    sweep = SweepSettings(**settings)
    make = make_scheduler if sweep.scheduler else partial(make_searcher, seed=0, max_concurrent=2)
    with pytest.raises(InputError) as raised:
        make(sweep)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_drawing_at_random_is_seeded_by_the_job():
    searcher = make_searcher(SweepSettings(), seed=3, max_concurrent=2)
    assert isinstance(searcher, BasicVariantGenerator)
    draws = [searcher._random_state.uniform() for searcher in (searcher,)]
    again = make_searcher(SweepSettings(), seed=3, max_concurrent=2)
    assert draws == [again._random_state.uniform()]


def test_a_named_searcher_is_limited_to_as_many_trials_as_there_are_hosts_for():
    searcher = make_searcher(SweepSettings(searcher={"name": "optuna"}), seed=0, max_concurrent=3)
    assert isinstance(searcher, ConcurrencyLimiter)
    assert searcher.max_concurrent == 3
