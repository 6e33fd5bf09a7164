"""Every strategy's loss, penalty or solution against a naive version written from the paper's
equations."""

import pytest

from nouns import make_learner


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("er", {"replay_size": -1}, "strategy.replay_size"),
        ("ewc", {"strength": -1.0}, "strategy.strength"),
        ("ewc", {"decay": 1.5}, "strategy.decay"),
        ("lwf", {"temperature": 0.0}, "strategy.temperature"),
        ("l2p", {"top_k": 11}, "strategy.top_k"),
        ("l2p", {"length": 0}, "strategy.length"),
        ("olora", {"orthogonality": -0.1}, "strategy.orthogonality"),
        ("ranpac", {"projection": 0}, "strategy.projection"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_key(name, settings, key, nouns, tiny_bert):
    with pytest.raises(ValueError, match=key):
        make_learner(name, nouns, tiny_bert, **settings)
