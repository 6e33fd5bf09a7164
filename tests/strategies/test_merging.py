"""Strategies that merge: what they train from, what they merge, what answers."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lamina.adapters.merging import as_lora
from lamina.adapters.model import HEAD, MAIN
from lamina.core import Batch, generator_of
from lamina.strategies.task_arithmetic import MERGED, ORIGIN
from lamina.training.settings import TrainingSettings
from nouns import NO_REPLAY, after, logits_of, make_learner

FROM_THE_START = ["task_arithmetic", "ties", "dare"]


EVERY = [*FROM_THE_START, "magmax"]


@pytest.mark.parametrize("name", EVERY)
def test_the_loss_is_the_tasks_own_cross_entropy_under_what_is_trained(name, nouns, tiny_bert):
    learner, data = after(1, name, nouns, tiny_bert)
    model = learner.model
    assert model.active == [MAIN]
    assert {each.split(".")[0] for each in model.parameters()} == {MAIN, HEAD}
    loss = learner.strategy.step(model, data, NO_REPLAY).loss
    naive = F.cross_entropy(logits_of(learner, data)[:, 2:4], data.labels - 2)
    torch.testing.assert_close(loss, naive)


@pytest.mark.parametrize("name", EVERY)
def test_head_rows_of_earlier_tasks_stay_as_they_were_trained(name, nouns, tiny_bert):
    learner = make_learner(name, nouns, tiny_bert)
    reports = learner.learn()
    next(reports)
    before = learner.model.adapters[HEAD].tensors["weight"].detach().clone()
    list(reports)
    assert torch.equal(learner.model.adapters[HEAD].tensors["weight"][:2], before)


@pytest.mark.parametrize("name", FROM_THE_START)
def test_every_task_starts_from_the_same_adapter(name, nouns, tiny_bert):
    learner, _ = after(2, name, nouns, tiny_bert)
    main, origin = (learner.model.adapters[each].tensors for each in (MAIN, ORIGIN))
    assert all(torch.equal(main[key], origin[key]) for key in origin)
    assert learner.model.adapters[MAIN].trainable
    assert not learner.model.adapters[ORIGIN].trainable


@pytest.mark.parametrize("sides", [(3, 5), (5, 3), (4, 4)])
def test_a_full_update_is_a_lora_of_the_smaller_side(sides):
    update = torch.randn(sides, generator=generator_of(0, "update"))
    lora = as_lora({"m": update})
    assert lora["m.lora_A.weight"].shape[0] == min(sides)
    assert torch.equal(lora["m.lora_B.weight"] @ lora["m.lora_A.weight"], update)


@pytest.mark.parametrize("name", EVERY)
def test_a_weight_of_zero_answers_with_the_frozen_features_and_weight_moves_it(
    name, nouns, tiny_bert
):
    data = nouns.experiences[1].test

    def features(weight):
        learner = make_learner(name, nouns, tiny_bert, weight=weight)
        list(learner.learn())
        return learner.model(data.inputs).features.detach()

    frozen = tiny_bert(data.inputs).features
    torch.testing.assert_close(features(0.0), frozen, atol=1e-6, rtol=0)
    assert (features(1.0) - frozen).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["ties", "magmax"])
def test_one_task_at_full_weight_and_density_answers_as_it_was_trained(name, nouns, tiny_bert):
    settings = {"weight": 1.0, **({"density": 1.0} if name == "ties" else {})}
    learner = make_learner(name, nouns, tiny_bert, **settings)
    next(learner.learn())
    main, merged = (learner.model.adapters[each].tensors for each in (MAIN, MERGED))
    for key in merged:
        torch.testing.assert_close(merged[key], main[key].detach(), atol=1e-7, rtol=0)


@pytest.mark.parametrize("name", [*EVERY, "adaptive_merging"])
def test_domains_of_the_same_classes_are_merged_too(name, nouns, tiny_bert):
    experiences = []
    for each in nouns.experiences:
        task = replace(each.task, classes=(0, 1))
        parts = {
            part: replace(each.part(part), labels=each.part(part).labels % 2, task=task)
            for part in ("train", "validation", "test")
        }
        experiences.append(replace(each, task=task, **parts))
    stream = replace(nouns, scenario="domain_incremental", experiences=tuple(experiences))
    training = TrainingSettings(epochs=6, batch_size=4, learning_rate=2e-2)
    learner = make_learner(name, stream, tiny_bert, training=training)
    list(learner.learn())
    train = Batch.cat([each.train for each in experiences])
    right = logits_of(learner, train).argmax(1) == train.labels
    assert right.float().mean() > 0.6


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("task_arithmetic", {"weight": -1.0}, "strategy.weight"),
        ("ties", {"density": 0.0}, "strategy.density"),
        ("ties", {"weight": -0.1}, "strategy.weight"),
        ("dare", {"drop_rate": 1.0}, "strategy.drop_rate"),
        ("magmax", {"weight": -0.5}, "strategy.weight"),
        ("adaptive_merging", {"share": 0.0}, "strategy.share"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_key(name, settings, key, nouns, tiny_bert):
    with pytest.raises(ValueError, match=key):
        make_learner(name, nouns, tiny_bert, **settings)
