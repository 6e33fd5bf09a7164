"""The baselines (linear probe, zero-shot, IncLoRA, per-task oracle): what they are worth is what
they leave out."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lamina.adapters.model import HEAD
from lamina.core import Samples, generator_of
from lamina.strategies import strategy_class
from lamina.strategies.zero_shot import in_words
from nouns import NO_REPLAY, NOUNS, after, as_scenario, logits_of, make_learner


def learn_on(learner, data):
    learner.descend(learner.stream.experiences[learner.next_task].task, data)


# linear probe


def test_linear_probe_is_a_softmax_regression_on_frozen_features(nouns, tiny_bert):
    learner, data = after(1, "linear_probe", nouns, tiny_bert)
    head = learner.model.adapters[HEAD].tensors
    logits = tiny_bert(data.inputs).features @ head["weight"].T + head["bias"]
    naive = -logits.log_softmax(1)[torch.arange(len(data)), data.labels].mean()
    torch.testing.assert_close(learner.strategy.step(learner.model, data, NO_REPLAY).loss, naive)
    assert set(learner.model.parameters()) == {"head.weight", "head.bias"}


def test_linear_probe_is_finetune_without_an_adapter(nouns, tiny_bert):
    probe = make_learner("linear_probe", nouns, tiny_bert)
    finetune = make_learner("finetune", nouns, tiny_bert, adapter=None)
    assert [r.test for r in probe.learn()] == [r.test for r in finetune.learn()]
    for name, value in probe.model.parameters().items():
        torch.testing.assert_close(value, finetune.model.parameters()[name])


# zero-shot


def test_zero_shot_compares_inputs_with_class_names_by_cosine(nouns, tiny_bert):
    learner = make_learner("zero_shot", nouns, tiny_bert)
    list(learner.learn())
    test = nouns.experiences[1].test
    names = torch.cat(
        [
            tiny_bert(
                tiny_bert.encode(Samples([name], torch.zeros(1), torch.zeros(1))).inputs
            ).features
            for name in NOUNS
        ]
    )
    query = tiny_bert(test.inputs).features
    naive = torch.stack([F.cosine_similarity(query, name[None]) for name in names], dim=1)
    logits = learner.strategy.predict(learner.model, test.inputs, None)
    torch.testing.assert_close(logits, naive, atol=1e-4, rtol=1e-4)


def test_zero_shot_knows_a_class_from_the_task_that_shows_it(nouns, tiny_bert):
    learner, data = after(1, "zero_shot", nouns, tiny_bert)
    learner.model.grow_head(6)
    stranger = replace(nouns.experiences[2].task, classes=(5,), class_names=("fan",))
    learner.strategy.begin_task(learner.model, stranger, None)
    logits = learner.strategy.predict(learner.model, data.inputs, None)
    assert logits[:, [0, 1, 2, 3, 5]].isfinite().all()
    assert (logits[:, 4] == float("-inf")).all()


def test_zero_shot_template_moves_the_result_and_plain_is_the_name(nouns, tiny_bert):
    def logits(**settings):
        learner = make_learner("zero_shot", nouns, tiny_bert, **settings)
        list(learner.learn())
        return learner.strategy.predict(learner.model, nouns.experiences[0].test.inputs, None)

    assert torch.equal(logits(), logits(template="{}"))
    assert (logits() - logits(template="this is about the {}")).abs().max() > 1e-3
    with pytest.raises(ValueError, match=r"strategy\.template"):
        strategy_class("zero_shot")(template="about the")


def test_zero_shot_reads_identifiers_as_words_and_no_images():
    assert in_words("HassTurnOn/light") == "Hass Turn On light"
    assert in_words("set_alarm-clock") == "set alarm clock"
    assert in_words("USA2News.final cut") == "USA2 News final cut"
    assert strategy_class("zero_shot").modalities == ("text",)


# inclora


def test_inclora_adds_a_new_lora_to_the_frozen_sum_of_the_earlier_ones(nouns, tiny_bert):
    learner, data = after(2, "inclora", nouns, tiny_bert)
    model = learner.model
    assert model.active == ["task_0", "task_1", "task_2"]
    assert {name.split(".")[0] for name in model.parameters()} == {"head", "task_2"}
    past = {
        (n, k): v.clone() for n in model.active[:2] for k, v in model.adapters[n].tensors.items()
    }
    learn_on(learner, data)
    assert all(torch.equal(v, model.adapters[n].tensors[k]) for (n, k), v in past.items())
    module = "encoder.layer.0.attention.self.query"
    sites = model.overlay().patches
    (patches,) = [value for site, value in sites.items() if site.write == module]
    x = torch.randn(1, 5, tiny_bert.dim, generator=generator_of(0, "x"))
    naive = torch.zeros(1, 5, tiny_bert.dim)
    for name in model.active:
        tensors = model.adapters[name].tensors
        b, a = tensors[f"{module}.lora_B.weight"], tensors[f"{module}.lora_A.weight"]
        naive = naive + 2.0 * x @ (b @ a).T
    update = torch.zeros_like(naive)
    for patch in patches:
        update = patch(x, update)
    torch.testing.assert_close(update, naive)


def test_inclora_is_olora_without_its_constraint(nouns, tiny_bert):
    inclora = make_learner("inclora", nouns, tiny_bert)
    olora = make_learner("olora", nouns, tiny_bert, orthogonality=0.0)
    ours, theirs = ([r.metrics["train/loss"] for r in each.learn()] for each in (inclora, olora))
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_inclora_cross_entropy_leaves_old_rows_of_the_head_alone(nouns, tiny_bert):
    learner, data = after(1, "inclora", nouns, tiny_bert)
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    naive = F.cross_entropy(logits_of(learner, data)[:, 2:4], data.labels - 2)
    torch.testing.assert_close(loss, naive)
    bias = learner.model.adapters[HEAD].tensors["bias"]
    assert not torch.autograd.grad(loss, bias)[0][:2].any()


# oracle


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
