"""Strategies with an adapter per task or per layer, against naive versions written from the
papers' equations."""

import pytest

from nouns import make_learner


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("lae", {"momentum": 1.5}, "strategy.momentum"),
        ("lae", {"freeze": 1.0}, "strategy.freeze"),
        ("ease", {"alpha": -0.1}, "strategy.alpha"),
        ("c_ada", {"orthogonality": -1.0}, "strategy.orthogonality"),
        ("adaptercl", {"components": 0}, "strategy.components"),
        ("ada", {"pool_size": 0}, "strategy.pool_size"),
        ("ada", {"distillation": 0.0}, "strategy.distillation"),
        ("acl", {"replay_size": 0}, "strategy.replay_size"),
        ("acl", {"fine_tuning": 0.0}, "strategy.fine_tuning"),
        ("sema", {"threshold": 0.0}, "strategy.threshold"),
        ("sema", {"descriptor_width": 0}, "strategy.descriptor_width"),
        ("sema", {"growing": 0}, "strategy.growing"),
        ("sema", {"slow": -0.1}, "strategy.slow"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_key(name, settings, key, nouns, tiny_bert):
    with pytest.raises(ValueError, match=key):
        make_learner(name, nouns, tiny_bert, **settings)
