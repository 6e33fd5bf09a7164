"""I-LoRA, TreeLoRA, Online-LoRA and CoLoR against naive versions written from the papers."""

from dataclasses import replace

import pytest

from nouns import drift, make_learner


def task_free(nouns):
    return replace(nouns, scenario="task_free")


@pytest.mark.parametrize("name", ["i_lora", "online_lora"])
def test_it_needs_no_task_boundary(name, nouns, tiny_bert):
    learner = make_learner(name, task_free(nouns), tiny_bert)
    before = {k: v.detach().clone() for k, v in learner.model.parameters().items()}
    reports = list(learner.learn())
    assert len(reports) == 3
    assert drift(learner, before) > 0
    inputs = nouns.experiences[0].test.inputs
    assert learner.strategy.predict(learner.model, inputs, None).isfinite().all()


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("i_lora", {"decay": 1.0}, "strategy.decay"),
        ("i_lora", {"replay_size": -1}, "strategy.replay_size"),
        ("tree_lora", {"strength": -1.0}, "strategy.strength"),
        ("online_lora", {"window": 0}, "strategy.window"),
        ("color", {"clusters": 0}, "strategy.clusters"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_key(name, settings, key, nouns, tiny_bert):
    with pytest.raises(ValueError, match=key):
        make_learner(name, nouns, tiny_bert, **settings)
