"""Per-task oracle: its losses, state and answers against naive versions."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lamina.strategies import strategy_class
from nouns import NO_REPLAY, after, as_scenario, make_learner


@pytest.mark.parametrize("adapter", ["lora", None])
def test_oracle_of_a_task_is_that_task_learned_alone(adapter, nouns, tiny_bert):
    told = as_scenario(nouns, "task_incremental")
    learner = make_learner("oracle", told, tiny_bert, adapter=adapter)
    list(learner.learn())
    alone = make_learner(
        "oracle", replace(told, experiences=told.experiences[1:2]), tiny_bert, adapter=adapter
    )
    list(alone.learn())
    inputs, task = nouns.experiences[1].test.inputs, nouns.experiences[1].task
    single, among = (
        each.strategy.predict(each.model, inputs, task).detach() for each in (alone, learner)
    )
    assert torch.equal(single[:, 2:4], among[:, 2:4])
    assert (among[:, [0, 1, 4, 5]] == float("-inf")).all()


def test_oracle_trains_on_each_task_with_its_own_head(nouns, tiny_bert):
    learner, data = after(1, "oracle", as_scenario(nouns, "task_incremental"), tiny_bert)
    assert {name.split(".")[0] for name in learner.model.parameters()} == {"head_1", "task_1"}
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    logits = learner.model(data.inputs, adapters=["task_1"], head="head_1").logits
    torch.testing.assert_close(loss, F.cross_entropy(logits, data.labels - 2))


def test_oracle_takes_class_numbers_in_any_order(nouns, tiny_bert):
    learner, data = after(1, "oracle", as_scenario(nouns, "task_incremental"), tiny_bert)
    learner.model.grow_head(6)
    task = replace(nouns.experiences[1].task, index=7, classes=(5, 3))
    learner.strategy.begin_task(learner.model, task, None)
    labels = torch.tensor([3, 5] * (len(data) // 2))
    batch = replace(data, task=task, labels=labels)
    loss = learner.strategy.step(learner.model, batch, NO_REPLAY).loss
    logits = learner.strategy.predict(learner.model, data.inputs, task)
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels))


def test_oracle_is_for_streams_that_tell_the_task():
    assert strategy_class("oracle").scenarios == ("task_incremental",)
