"""The section `federation`: what it fills in, what it refuses."""

import pytest

from lamina.config import ConfigError, parse_job
from lamina.federation.fitness import misfit
from lamina.strategies import strategy_class, strategy_names

JOB = {
    "name": "rooms",
    "stream": {"name": "assistant"},
    "scenario": {"kind": "class_incremental"},
    "backbone": {"name": "minilm"},
    "adapter": {"kind": "lora"},
    "strategy": {"name": "finetune"},
    "federation": {"clients": 10},
}
PRIVATE = {"clip": 1.0}
ROWS = {"unit": "example", "clip": 1.0}
EQUAL = {"name": "fedit", "weighting": "equal"}


def with_federation(**federation):
    return {**JOB, "federation": {**JOB["federation"], **federation}}


def problems_of(mapping):
    with pytest.raises(ConfigError) as refused:
        parse_job(mapping)
    return refused.value.problems


def test_a_job_without_the_section_has_no_trace_of_it():
    job = parse_job({key: value for key, value in JOB.items() if key != "federation"})
    assert job.federation is None
    assert "federation" not in job.settings()


def test_every_default_is_filled_in_and_read_again():
    settings = parse_job(JOB).settings()
    assert settings["federation"]["aggregator"] == {"name": "fedit", "weighting": "rows"}
    assert settings["federation"]["partition"]["kind"] == "iid"
    assert settings["federation"]["clock"]["availability"] == 1.0
    assert parse_job(settings).settings() == settings


@pytest.mark.parametrize(
    ("federation", "said"),
    [
        ({"clinets": 3}, "federation.clinets: unknown key; did you mean 'clients'?"),
        ({"aggregator": {"name": "fedut"}}, "did you mean 'fedit'?"),
        ({"partition": {"kind": "dirichlet", "alpha": -1}}, "federation.partition"),
        ({"clock": {"dropout": 2}}, "federation.clock.dropout: 2"),
        ({"privacy": {"clip": -1}}, "federation.privacy.clip"),
        ({"privacy": {"unit": "row"}}, "federation.privacy.unit: 'row'"),
        ({"privacy": {"unit": "example"}}, "federation.privacy.clip: missing"),
        (
            {"privacy": {**PRIVATE, "noise_multiplier": 0}},
            "noise_multiplier: 0.0 is not a number from 0.1",
        ),
        (
            {"privacy": ROWS | {"noise_multiplier": 0}},
            "noise_multiplier: 0.0 is not a number from 0.1",
        ),
        ({"privacy": ROWS, "aggregator": {"name": "lorm"}}, "the noise on their steps"),
        ({"privacy": ROWS | {"secure_sum": "real"}}, "federation.aggregator.weighting"),
        ({"participation": 0}, "federation.participation: 0"),
        ({"mode": "buffered", "deadline": 3.0}, "federation.deadline"),
        ({"mode": "buffered", "sampling": "poisson"}, "federation.sampling"),
        ({"aggregator": {"name": "krum"}, "privacy": {"secure_sum": "real"}}, "krum"),
        ({"aggregator": {"name": "flora"}, "privacy": {"secure_sum": "real"}}, "flora"),
        ({"privacy": PRIVATE}, "weighting"),
        ({"privacy": PRIVATE, "aggregator": EQUAL, "mode": "buffered"}, "federation.privacy"),
        ({"aggregator": {"name": "rolora"}, "mode": "buffered"}, "rolora"),
        ({"drift": {"name": "scaffold"}}, "SCAFFOLD"),
        (
            {"aggregator": {"name": "flexlora"}, "server_optimiser": {"name": "fedadam"}},
            "flexlora",
        ),
        ({"aggregator": {"name": "prompt_pool"}}, "for each task, and a row"),
        ({"aggregator": {"name": "prototypes"}}, "prototypes"),
        ({"ranks": [2, 4]}, "ranks"),
    ],
)
def test_what_cannot_be_is_refused_when_the_job_is_read(federation, said):
    assert any(said in line for line in problems_of(with_federation(**federation)))


def test_a_pool_by_task_is_for_streams_whose_rows_come_with_their_task():
    told = with_federation(aggregator={"name": "prompt_pool"})
    told = {**told, "scenario": {**told["scenario"], "kind": "task_incremental"}}
    assert parse_job(told).federation.aggregator.by_task
    drift = {**told["federation"], "drift": {"name": "scaffold"}}
    scaffold = {**told, "federation": drift, "training": {"optimizer": "sgd"}}
    assert any("one copy" in line for line in problems_of(scaffold))


def test_another_aggregator_brings_its_own_settings():
    from lamina.config.overrides import laid_over

    base = with_federation(aggregator={"name": "trimmed_mean", "weighting": "equal"})
    over = {"federation": {"aggregator": {"name": "fedit"}}}
    merged = laid_over(base, over, lambda *_: False)
    assert merged["federation"]["aggregator"] == {"name": "fedit"}
    assert merged["federation"]["clients"] == 10


def test_strategies_that_see_rows_are_refused():
    refused = {
        name
        for name in strategy_names()
        if "single rows" in (misfit(name, strategy_class(name), True) or "")
    }
    assert refused == {"color", "ovor", "s_prompts"}
    (line,) = problems_of({**JOB, "strategy": {"name": "color"}, "adapter": {"kind": "prompt"}})[:1]
    assert "color" in line


def test_an_online_stream_is_refused():
    scenario = {"kind": "class_incremental", "online": True}
    assert any("online" in line for line in problems_of({**JOB, "scenario": scenario}))


def test_sums_that_privacy_does_not_cover_are_refused():
    private = with_federation(privacy=PRIVATE, aggregator=EQUAL)
    assert parse_job(private).federation.privacy is not None
    told = {**private, "strategy": {"name": "ranpac"}}
    assert any("'ranpac' also sends sums over rows" in line for line in problems_of(told))


@pytest.mark.parametrize(
    "federation",
    [
        {},
        {"aggregator": {"name": "flora"}},
        {"aggregator": {"name": "krum", "byzantine": 1, "weighting": "equal"}},
        {"mode": "buffered", "arrival": {"kind": "periodic", "order": "own"}},
        {"aggregator": EQUAL, "privacy": ROWS | {"secure_sum": "real"}},
    ],
)
def test_clients_that_hide_their_rows_themselves_may_be_combined_in_any_way(federation):
    job = parse_job(with_federation(**{"privacy": ROWS, **federation}))
    assert job.federation.row_privacy is job.federation.privacy
    assert parse_job(job.settings()).settings() == job.settings()


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"strategy": {"name": "er"}, "memory": {"policy": "ring", "size": 9}}, "replays rows"),
        ({"strategy": {"name": "ewc"}}, "summaries.noise_multiplier: strategy 'ewc'"),
    ],
)
def test_what_noise_on_the_steps_does_not_hide_is_refused(parts, said):
    problems = problems_of({**with_federation(privacy=ROWS), **parts})
    assert any(said in line for line in problems)


NOISY = {"summaries": {"noise_multiplier": 2.0, "clip": 0.5}}


def test_sums_over_rows_may_leave_behind_noise_or_without_rare_classes():
    hidden = with_federation(privacy=ROWS | NOISY)
    for strategy, more in (("ewc", {}), ("ncm", {"adapter": None})):
        job = parse_job({**hidden, "strategy": {"name": strategy}, **more})
        assert job.federation.privacy.summaries.clip == 0.5
        assert parse_job(job.settings()).settings() == job.settings()
    frequent = with_federation(privacy={"summaries": {"min_rows": 4}})
    job = parse_job({**frequent, "strategy": {"name": "ncm"}, "adapter": None})
    assert job.federation.privacy.summaries.min_rows == 4
    assert job.federation.row_privacy is None
    assert job.federation.private_sum(10, 0) is None


@pytest.mark.parametrize(
    ("federation", "said"),
    [
        ({"privacy": {"summaries": {"min_rows": 0}}}, "privacy.summaries.min_rows: 0"),
        ({"privacy": {"summaries": {"min_row": 3}}}, "did you mean 'min_rows'?"),
        ({"privacy": {"summaries": 3}}, "federation.privacy.summaries: 3 is not allowed"),
        ({"privacy": NOISY}, "federation.privacy.unit example"),
        (
            {"privacy": ROWS | NOISY, "arrival": {"kind": "periodic", "order": "own"}},
            "clients at tasks of their own",
        ),
        ({"privacy": {**NOISY, "unit": "example"}}, "federation.privacy.clip: missing"),
        ({"privacy": PRIVATE | {"summaries": {}}, "aggregator": EQUAL}, "neither clipped"),
    ],
)
def test_sums_that_leave_in_another_way_are_refused(federation, said):
    job = {**with_federation(**federation), "strategy": {"name": "ewc"}}
    assert any(said in line for line in problems_of(job))
