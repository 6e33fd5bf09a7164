"""What is measured of a learner: routes, learning curves, accuracy at any time, costs."""

import pytest
import torch
from sklearn.metrics import f1_score

from lamina.evaluation.drift import drift
from lamina.evaluation.measures.accuracy import Accuracy
from lamina.training.checkpoint import pack, unpack
from lamina.training.evaluate import measured
from lamina.training.settings import TrainingSettings
from nouns import as_scenario, make_learner, nouns_stream


@pytest.fixture(scope="module")
def stream(tiny_bert):
    return nouns_stream(tiny_bert)


def settings(**changes):
    return TrainingSettings(**{"epochs": 1, "batch_size": 4, "learning_rate": 1e-2, **changes})


def test_routing_accuracy_is_the_mean_over_tasks_of_rows_sent_to_their_own(stream, tiny_bert):
    learner = make_learner("color", stream, tiny_bert, training=settings())
    last = list(learner.learn())[-1]
    shares = []
    for each in stream.experiences:
        with torch.no_grad():
            routes = learner.strategy.route(learner.model, each.test.inputs)
        shares.append(float((routes == each.task.index).float().mean()))
    assert last.metrics["test/routing_accuracy"] == pytest.approx(sum(shares) / 3)


def test_what_does_not_route_and_who_is_told_the_task_have_no_routing_accuracy(stream, tiny_bert):
    for name, scenario in (("finetune", "class_incremental"), ("color", "task_incremental")):
        told = as_scenario(stream, scenario)
        report = next(make_learner(name, told, tiny_bert, training=settings()).learn())
        assert "test/routing_accuracy" not in report.metrics


def test_the_learning_curve_has_a_point_before_training_and_one_after_each_batch(stream, tiny_bert):
    training = settings(learning_curve_batches=2, learning_rate=0.05)
    learner = make_learner("finetune", stream, tiny_bert, training=training)
    untrained = make_learner("finetune", stream, tiny_bert)
    untrained.model.grow_head(2)
    first = stream.experiences[0].test
    start = measured(Accuracy(), untrained.strategy, untrained.model, first, None, 256)
    last = list(learner.learn())[-1]
    curves = learner.scores.probes.curves["test"]
    assert [len(curve) for curve in curves] == [3, 3, 3]
    assert curves[0][0] == start
    area = sum(sum(curve) / 3 for curve in curves) / 3
    assert last.metrics["test/learning_curve_area"] == pytest.approx(area)


def test_accuracy_at_any_time_is_asked_every_so_many_rows_and_changes_no_result(stream, tiny_bert):
    free = as_scenario(stream, "task_free")
    plain = make_learner("er", free, tiny_bert, training=settings())
    asked = make_learner("er", free, tiny_bert, training=settings(anytime_every=8))
    reports = [list(each.learn()) for each in (plain, asked)]
    assert [r.test for r in reports[0]] == [r.test for r in reports[1]]
    values = asked.scores.probes.anytime["test"]
    assert len(values) == 30 // 8
    assert reports[1][-1].metrics["test/anytime_accuracy"] == pytest.approx(sum(values) / 3)
    assert "test/anytime_accuracy" not in reports[0][-1].metrics


def test_an_online_stream_offers_rows_as_they_pass(stream, tiny_bert):
    free = as_scenario(stream, "task_free")
    learner = make_learner("er", free, tiny_bert, training=settings())
    next(learner.learn())
    own = set(stream.experiences[0].train.ids.tolist())
    assert set(learner.memory.ids.tolist()) <= own
    assert learner.memory.num_offered == len(own)
    assert learner.model.num_classes() == 6


def test_the_optimiser_of_a_task_free_stream_lives_on_in_a_checkpoint(stream, tiny_bert):
    free = as_scenario(stream, "task_free")
    straight = make_learner("finetune", free, tiny_bert, training=settings(schedule="cosine"))
    learning = straight.learn()
    next(learning)
    saved = pack(straight.state_dict())
    remembered = unpack(saved)["stepper"]
    assert remembered["steps"] == 3
    assert float(remembered["optimizer"]["head.bias"]["step"]) == 3.0
    list(learning)
    resumed = make_learner("finetune", free, tiny_bert, training=settings(schedule="cosine"))
    resumed.load_state_dict(unpack(saved))
    list(resumed.learn())
    for name, tensor in straight.model.parameters().items():
        assert torch.equal(tensor, resumed.model.parameters()[name])


def test_costs_are_what_a_prediction_and_a_task_take(stream, tiny_bert):
    one, two = (
        list(make_learner(name, stream, tiny_bert, training=settings()).learn())[-1].metrics
        for name in ("finetune", "ease")
    )
    assert one["cost/inference_passes"] == 1.0
    assert two["cost/inference_passes"] > 2.0
    assert two["cost/inference_flops"] > 1.5 * one["cost/inference_flops"] > 0
    assert one["cost/train_flops"] > 30 * one["cost/inference_flops"]
    assert one["cost/added_parameters"] == 2 * 33
    assert two["cost/added_parameters"] > one["cost/stored_parameters"] / 2
    assert one["cost/peak_memory_bytes"] > 1e8
    assert 0 < one["test/continual_score"] < 1


def test_macro_f1_and_top_5_are_of_the_tasks_so_far_together(stream, tiny_bert):
    learner = make_learner("finetune", stream, tiny_bert, training=settings())
    reports = list(learner.learn())
    labels, predicted, place = (
        torch.cat([getattr(each, name) for each in learner.scores.answers["test"]]).tolist()
        for name in ("labels", "predicted", "place")
    )
    last = reports[-1].metrics
    assert last["test/macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert last["test/top5_accuracy"] == sum(each < 5 for each in place) / len(place)
    assert [("validation/top5_accuracy" in each.metrics) for each in reports] == [
        False,
        False,
        True,
    ]


def test_classes_that_are_not_seen_yet_are_no_part_of_macro_f1(stream, tiny_bert):
    domains = as_scenario(stream, "domain_incremental")
    learner = make_learner("finetune", domains, tiny_bert, training=settings())
    first = next(learner.learn())
    own = learner.scores.answers["test"][0]
    expected = f1_score(own.labels.tolist(), own.predicted.tolist(), average="macro")
    assert first.metrics["test/macro_f1"] == pytest.approx(expected)
    assert learner.scores.answers["test"][1] is not None


def test_what_is_told_its_task_has_no_top_5_among_its_two_classes(stream, tiny_bert):
    told = as_scenario(stream, "task_incremental")
    last = list(make_learner("finetune", told, tiny_bert, training=settings()).learn())[-1]
    assert "test/macro_f1" in last.metrics
    assert "test/top5_accuracy" not in last.metrics


def test_no_number_of_classes_where_an_earlier_tasks_rows_are_gone(stream, tiny_bert):
    learner = make_learner("finetune", stream, tiny_bert, training=settings())
    list(learner.learn())
    learner.scores.answers["test"][0] = None
    assert "test/macro_f1" not in learner.scores.metrics()
    assert "validation/macro_f1" in learner.scores.metrics()


def _said(learner, data, num_classes):
    with torch.no_grad():
        return learner.strategy.predict(learner.model, data.inputs, None)[:, :num_classes]


@pytest.mark.parametrize("kind", ["class_incremental", "domain_incremental"])
def test_drift_is_between_the_answers_before_and_after_a_task(stream, tiny_bert, kind):
    told = as_scenario(stream, kind)
    learner = make_learner("finetune", told, tiny_bert, training=settings(drift=True))
    reports = learner.learn()
    first = next(reports)
    data, known = told.experiences[1].validation, learner.model.num_classes()
    before = _said(learner, data, known)
    second = next(reports)
    assert "drift/kl" not in first.metrics
    expected = drift(before, _said(learner, data, known))
    assert expected > 0
    assert second.metrics["drift/kl"] == pytest.approx(expected, rel=1e-4)
    third = next(reports)
    mean = (second.metrics["drift/kl"] + third.metrics["drift/kl"]) / 2
    assert third.metrics["drift/mean_kl"] == pytest.approx(mean)


def test_to_ask_for_drift_changes_no_other_number(stream, tiny_bert):
    def accuracies(**more):
        learner = make_learner("er", stream, tiny_bert, training=settings(**more))
        return [(each.validation, each.test) for each in learner.learn()]

    assert accuracies() == accuracies(drift=True)


def test_drift_goes_on_from_a_checkpoint(stream, tiny_bert):
    made = [
        make_learner("finetune", stream, tiny_bert, training=settings(drift=True)) for _ in range(2)
    ]
    whole, resumed = made
    reports = whole.learn()
    next(reports), next(reports)
    resumed.load_state_dict(unpack(pack(whole.state_dict())))
    (last,) = resumed.learn()
    assert next(reports).metrics["drift/mean_kl"] == last.metrics["drift/mean_kl"]
