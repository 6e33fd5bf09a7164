"""What a strategy declares to matter from the second task on really changes nothing before."""

import pytest

from lamina.config.fields import settings_of
from lamina.strategies import strategy_class
from lamina.training.checkpoint import pack, unpack
from nouns import OF_CLASSES, make_learner, nouns_stream
from two_workers import digest

DECLARED = [(name, key) for name in OF_CLASSES for key in strategy_class(name).from_second_task]
FULL_OF_EFFECT = {
    "agem.replay_size": 1,
    "cl_moe.momentum": 0.2,
    "decay": 0.0,
    "gem.margin": 0.7,
    "olora.orthogonality": 7.0,
    "replay_size": 2,
    "scale": "paper",
    "temperature": 8.0,
}
"""Another value of a key, where ten times its default is not another."""
MAY_CHANGE_NOTHING = ("gem.margin", "i_lora.consistency")
"""Where this stream gives a key nothing to do: no conflict of gradients, no lower feature."""


def other_value(name, key):
    for known in (f"{name}.{key}", key):
        if known in FULL_OF_EFFECT:
            return FULL_OF_EFFECT[known]
    return settings_of(strategy_class(name))[key].default * 10


@pytest.fixture(scope="module")
def stream(tiny_bert):
    return nouns_stream(tiny_bert)


@pytest.mark.parametrize(("name", "key"), DECLARED)
def test_what_matters_later_leaves_the_first_task_and_what_follows_bit_identical(
    name, key, stream, tiny_bert
):
    leader = make_learner(name, stream, tiny_bert, entry="task_end")
    alone = make_learner(name, stream, tiny_bert, entry="task_end", **{key: other_value(name, key)})
    first, other = next(steps := leader.learn()), next(alone_steps := alone.learn())
    assert digest(leader) == digest(alone)
    assert (first.validation, first.test) == (other.validation, other.test)
    follower = make_learner(
        name, stream, tiny_bert, entry="task_end", **{key: other_value(name, key)}
    )
    follower.load_state_dict(unpack(pack(leader.state_dict())))
    for learned in (steps, alone_steps, follower.learn()):
        list(learned)
    assert digest(follower) == digest(alone)
    if f"{name}.{key}" not in MAY_CHANGE_NOTHING:
        assert digest(follower) != digest(leader)


def test_only_settings_of_a_strategy_are_declared():
    for name, key in DECLARED:
        assert key in settings_of(strategy_class(name))
