"""What a fork may change, and what is said of the rest."""

import pytest

from lamina.config import ConfigError, fork_trial, parse_job

MAPPING = {
    "name": "x",
    "stream": {"name": "assistant"},
    "scenario": {"kind": "class_incremental"},
    "backbone": {"name": "minilm"},
    "adapter": {"kind": "lora", "rank": 8},
    "memory": {"policy": "ring", "size": 5},
}


def of(strategy, **changes):
    """The settled job of a trial."""
    job = parse_job({**MAPPING, "strategy": strategy, **changes})
    return parse_job(job.settings()).mapping


def test_a_fork_is_the_same_job_with_a_few_keys_changed():
    mapping = of({"name": "er"})
    fork = fork_trial(
        mapping, ["training.learning_rate=5e-4", "strategy.replay_size=4", "memory.size=9"]
    )
    changed = {
        "training.learning_rate": 5e-4,
        "strategy.replay_size": 4,
        "memory.size": 9,
    }
    assert fork.settings == changed
    assert fork.name == "lr0.0005-replay_size4-size9"
    expected = {
        section: dict(value) if isinstance(value, dict) else value
        for section, value in mapping.items()
    }
    for key, value in changed.items():
        section, _, name = key.partition(".")
        expected[section][name] = value
    assert fork.job.mapping == expected


def test_a_fork_may_change_nothing():
    mapping = of({"name": "er"})
    fork = fork_trial(mapping, [])
    assert (fork.job.mapping, fork.settings, fork.name) == (mapping, {}, "")


@pytest.mark.parametrize(
    ("strategy", "word", "said"),
    [
        ({"name": "er"}, "adapter.rank=4", "adapter.rank: a fork cannot change it, as its tensors"),
        ({"name": "er"}, "scenario.num_tasks=4", "scenario.num_tasks: a fork cannot change it"),
        ({"name": "er"}, "stream.sentences_per_intent=4", "as the accuracies so far are of its"),
        ({"name": "er"}, "seed=4", "seed: a fork cannot change it, as the order of the stream"),
        ({"name": "er"}, "strategy.name=ewc", "as its state is in the checkpoint"),
        ({"name": "ewc"}, "strategy.strenght=4", "strategy.strenght: unknown key; did you mean"),
        ({"name": "ewc"}, "training.epoch=4", "training.epoch: unknown key; did you mean 'epochs'"),
        ({"name": "ewc"}, "trainin.epochs=4", "KEY: 'trainin' is unknown; did you mean 'training'"),
        ({"name": "ewc"}, "hosts.count=4", "KEY: 'hosts' is unknown"),
        ({"name": "ewc"}, "strategy.online=false", "as it shapes what is in the checkpoint"),
        ({"name": "ewc"}, "strategy.strength=-1", "strategy.strength: -1.0 is negative"),
        ({"name": "ewc"}, "memory.size=4", "memory.size: changes nothing, as strategy 'ewc'"),
        ({"name": "ranpac", "projection": 64}, "strategy.projection=32", "shapes what is in the"),
        ({"name": "cl_lora"}, "strategy.shared_layers=0.9", "does not fit the tensors in the"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(strategy, word, said):
    with pytest.raises(ConfigError) as raised:
        fork_trial(of(strategy), [word])
    assert said in str(raised.value)


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(ConfigError) as raised:
        fork_trial(of({"name": "er"}), ["adapter.rank=4", "seed=1"])
    assert len(raised.value.problems) == 2


def test_where_the_optimiser_lives_as_long_as_the_stream_a_fork_keeps_its_kind():
    mapping = of({"name": "er"}, scenario={"kind": "task_free", "num_tasks": 3})
    with pytest.raises(ConfigError, match=r"training.optimizer: a fork cannot change it"):
        fork_trial(mapping, ["training.optimizer=sgd"])
    assert fork_trial(mapping, ["training.learning_rate=0.5"]).settings
