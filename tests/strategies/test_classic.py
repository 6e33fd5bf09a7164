"""The classic methods (SI, MAS, ER-ACE, DER++, GEM, A-GEM, GPM) against naive versions written from
their papers' equations."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from classic_cases import SGD, learn_on
from lamina.core import Batch
from lamina.strategies import strategy_class
from lamina.training.settings import TrainingSettings
from nouns import after, logits_of, make_learner


@pytest.mark.parametrize(("name", "settings"), [("gem", {"margin": 0.0}), ("agem", {})])
def test_projected_steps_do_not_raise_the_loss_on_exemplars(name, settings, nouns, tiny_bert):
    def rise(each, **settings):
        training = TrainingSettings(epochs=2, batch_size=4, learning_rate=1e-2)
        learner, data = after(1, each, nouns, tiny_bert, training=training, **settings)
        learner.training = replace(SGD, epochs=4, learning_rate=0.01, momentum=0.0)
        first = learner.rows(learner.memory.ids)
        before = F.cross_entropy(logits_of(learner, first), first.labels).item()
        learn_on(learner, data)
        return F.cross_entropy(logits_of(learner, first), first.labels).item() - before

    assert rise("er", replay_size=0) > 0.2
    assert rise(name, **settings) < 0.02


@pytest.mark.parametrize("name", ["finetune", "linear_probe", "er", "er_ace", "der_pp", "agem"])
def test_it_learns_from_a_stream_without_tasks_and_names_no_class_before_its_time(
    name, nouns, tiny_bert
):
    parts = [each.train for each in nouns.experiences]
    flow = [
        replace(each, train=Batch.cat([parts[n]] * 12), test=parts[n])
        for n, each in enumerate(nouns.experiences)
    ]
    stream = replace(nouns, scenario="task_free", experiences=tuple(flow), one_pass=True)
    training = TrainingSettings(batch_size=5, learning_rate=2e-2)
    learner = make_learner(name, stream, tiny_bert, training=training)
    reports = learner.learn()
    next(reports)
    second = next(reports)
    assert second.test[1] >= 0.7
    with torch.no_grad():
        seen = Batch.cat(parts[:2]).inputs
        answers = learner.strategy.predict(learner.model, seen, None).argmax(dim=1)
    assert answers.max() < 4
    assert "task_free" in strategy_class(name).scenarios


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("si", {"strength": -1.0}, "strategy.strength"),
        ("si", {"damping": 0.0}, "strategy.damping"),
        ("mas", {"strength": -1.0}, "strategy.strength"),
        ("er_ace", {"replay_size": -1}, "strategy.replay_size"),
        ("der_pp", {"alpha": -0.1}, "strategy.alpha"),
        ("gem", {"replay_size": 0}, "strategy.replay_size"),
        ("gem", {"margin": -0.5}, "strategy.margin"),
        ("agem", {"replay_size": -1}, "strategy.replay_size"),
        ("gpm", {"threshold": 1.5}, "strategy.threshold"),
        ("gpm", {"growth": -0.1}, "strategy.growth"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_key(name, settings, key, nouns, tiny_bert):
    with pytest.raises(ValueError, match=key):
        make_learner(name, nouns, tiny_bert, **settings)
