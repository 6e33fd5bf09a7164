import json
from dataclasses import asdict, replace

import pytest
import torch

from lamina.adapters.model import per_sample_gradients
from lamina.evaluation.measures.accuracy import Accuracy
from lamina.losses import cross_entropy
from lamina.registry import InputError
from lamina.training.evaluate import answers_by_task, measured, row_of
from lamina.training.settings import TrainingSettings, make_optimizer, make_schedule
from nouns import make_learner, nouns_stream


def test_a_report_after_each_task_tells_what_is_known_so_far(nouns, tiny_bert):
    learner = make_learner("finetune", nouns, tiny_bert)
    reports = list(learner.learn())
    assert [report.task for report in reports] == [0, 1, 2]
    assert [report.done for report in reports] == [False, False, True]
    assert [[v is None for v in report.test] for report in reports] == [
        [False, True, True],
        [False, False, True],
        [False, False, False],
    ]
    assert "test/forgetting" not in reports[0].metrics
    assert "test/forgetting" in reports[1].metrics
    assert reports[2].metrics["cost/train_seconds"] > reports[0].metrics["cost/train_seconds"] > 0
    json.dumps(asdict(reports[2]))


def test_costs_are_counted(nouns, tiny_bert):
    report = list(make_learner("er", nouns, tiny_bert).learn())[-1]
    lora = 2 * 2 * (8 * 32 + 32 * 8)
    head = 6 * 32 + 6
    assert report.metrics["cost/trainable_parameters"] == lora + head
    assert report.metrics["cost/stored_parameters"] == lora + head
    assert report.metrics["cost/memory_exemplars"] == 8
    assert report.metrics["cost/memory_bytes"] > 8 * 3 * 4 * 8


def test_a_task_that_is_told_leaves_only_its_classes_to_compete(nouns, tiny_bert):
    learner = make_learner("finetune", nouns, tiny_bert)
    list(learner.learn())
    strategy, model = learner.strategy, learner.model
    told = replace(nouns, scenario="task_incremental")
    free_row = row_of(answers_by_task(strategy, model, nouns, "train", 8), Accuracy())
    told_row = row_of(answers_by_task(strategy, model, told, "train", 8), Accuracy())
    assert told_row[0] > free_row[0]
    data = nouns.experiences[0].train
    logits = model(data.inputs).logits[:, :2]
    assert told_row[0] == (logits.argmax(1) == data.labels).float().mean().item()


def test_accuracy_does_not_depend_on_the_size_of_evaluation_batches(nouns, tiny_bert):
    learner = make_learner("finetune", nouns, tiny_bert)
    list(learner.learn())
    data = nouns.experiences[2].train
    values = {
        size: measured(Accuracy(), learner.strategy, learner.model, data, None, size)
        for size in (1, 3, 64)
    }
    assert len(set(values.values())) == 1


def test_a_task_whose_classes_are_known_is_tested_before_it_is_learned(tiny_bert):
    stream = nouns_stream(tiny_bert)
    same = tuple(
        replace(
            each,
            task=replace(each.task, classes=(0, 1)),
            **{
                part: replace(getattr(each, part), labels=getattr(each, part).labels % 2)
                for part in ("train", "validation", "test")
            },
        )
        for each in stream.experiences
    )
    domains = replace(stream, scenario="domain_incremental", experiences=same)
    first, *_, last = make_learner("finetune", domains, tiny_bert).learn()
    assert None not in first.test
    assert "test/forward_transfer" in last.metrics


def test_seed_moves_the_model_and_nothing_else_does(nouns, tiny_bert):
    def weights(seed):
        learner = make_learner("finetune", nouns, tiny_bert, seed=seed)
        list(learner.learn())
        return torch.cat([value.flatten() for value in learner.model.parameters().values()])

    first = weights(0)
    make_learner("er", nouns, tiny_bert)
    torch.rand(10)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))


@pytest.mark.parametrize("adapter", ["lora", "bottleneck", "prefix", "prompt"])
def test_per_sample_gradients_are_those_of_each_sample_alone(adapter, nouns, tiny_bert):
    learner = make_learner("finetune", nouns, tiny_bert, adapter=adapter)
    next(learner.learn())
    data = nouns.experiences[0].train
    gradients = per_sample_gradients(
        learner.model,
        data.inputs,
        lambda logits: cross_entropy(logits, data.labels, reduction="none"),
    )
    parameters = learner.model.parameters()
    for row, one in enumerate(data.chunks(1)):
        loss = cross_entropy(learner.model(one.inputs).logits, one.labels)
        alone = torch.autograd.grad(loss, list(parameters.values()))
        for name, gradient in zip(parameters, alone, strict=True):
            torch.testing.assert_close(gradients[name][row], gradient, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    ("settings", "change"),
    [
        ({}, {"epochs": 3}),
        ({}, {"batch_size": 5}),
        ({}, {"optimizer": "sgd"}),
        ({}, {"optimizer": "adam", "weight_decay": 0.5}),
        ({}, {"learning_rate": 3e-3}),
        ({}, {"weight_decay": 0.5}),
        ({}, {"schedule": "cosine"}),
        ({}, {"schedule": "linear"}),
        ({}, {"max_grad_norm": 0.01}),
        ({"optimizer": "sgd"}, {"momentum": 0.0}),
    ],
)
def test_every_training_setting_moves_the_result(settings, change, nouns, tiny_bert):
    def head(**given):
        values = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, **settings, **given}
        training = TrainingSettings(**values)
        learner = make_learner("finetune", nouns, tiny_bert, training=training)
        next(learner.learn())
        return learner.model.adapters["head"].tensors["weight"].detach()

    assert not torch.equal(head(), head(**change))


def test_schedules_fall_to_zero_over_the_steps():
    for name, half in (("constant", 1.0), ("linear", 0.5), ("cosine", 0.5)):
        settings = TrainingSettings(learning_rate=2.0, schedule=name)
        optimizer = make_optimizer(settings, [{"params": [torch.zeros(1, requires_grad=True)]}])
        schedule = make_schedule(settings, optimizer, 10)
        rates = []
        for _ in range(10):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        assert rates[0] == 2.0
        assert rates[5] == pytest.approx(2.0 * half)
        assert rates[-1] < 0.3 or name == "constant"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("evaluation_batch_size", 0),
        ("learning_rate", 0.0),
        ("weight_decay", -1.0),
        ("momentum", 1.0),
        ("max_grad_norm", 0.0),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_key(key, value):
    with pytest.raises(InputError, match=f"training.{key}"):
        TrainingSettings(**{key: value})
