"""How much a row counts by its class: `training.class_weights`."""

from copy import deepcopy
from dataclasses import replace

import numpy
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from lamina.core import Stream
from lamina.evaluation.classification import class_accuracy, confusion_matrix
from lamina.losses import balanced_weights, cross_entropy, weighing
from lamina.strategies import strategy_class
from lamina.training.cohort import Cohort, shared
from lamina.training.settings import TrainingSettings
from nouns import NO_REPLAY, OF_CLASSES, after, as_scenario, make_learner, nouns_stream

STEPPING = [n for n in OF_CLASSES if strategy_class(n).takes_gradient_steps(has_adapter=True)]


@pytest.fixture(scope="module")
def rare(tiny_bert) -> Stream:
    """The nouns, with one training row of each task's second class and five of its first."""
    stream = nouns_stream(tiny_bert)
    experiences = []
    for each in stream.experiences:
        first, second = (each.train.labels == c for c in each.task.classes)
        rows = torch.cat([first.nonzero()[:, 0], second.nonzero()[:1, 0]])
        experiences.append(replace(each, train=each.train[rows]))
    return replace(stream, experiences=tuple(experiences))


def balanced(**changes):
    values = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-2, "class_weights": "balanced"}
    return TrainingSettings(**{**values, **changes})


def recalls(learner):
    """Of each class, on the test rows of all tasks."""
    found = [each for each in learner.scores.answers["test"] if each is not None]
    labels = torch.cat([each.labels for each in found])
    predicted = torch.cat([each.predicted for each in found])
    return class_accuracy(confusion_matrix(labels, predicted, 6))


def test_balanced_weights_are_scikit_learns():
    labels = torch.tensor([0] * 7 + [2] * 2 + [3])
    theirs = compute_class_weight("balanced", classes=numpy.array([0, 2, 3]), y=labels.numpy())
    assert balanced_weights(labels, 5)[[0, 2, 3]].tolist() == pytest.approx(theirs.tolist())
    assert balanced_weights(labels, 5)[[1, 4]].tolist() == [1.0, 1.0]
    assert balanced_weights(labels, 5)[labels].mean() == pytest.approx(1.0)


def test_the_mean_is_over_rows_whatever_they_weigh():
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    rows = cross_entropy(logits, labels, reduction="none")
    weights = torch.tensor([1.0, 0.5, 3.0])
    with weighing(weights):
        torch.testing.assert_close(
            cross_entropy(logits, labels), (rows * torch.tensor([1.0, 0.5, 3.0, 0.5])).mean()
        )
    assert torch.equal(cross_entropy(logits, labels, reduction="none"), rows)


def test_balanced_weights_move_a_rare_classs_recall(rare, tiny_bert):
    of_rare = []
    for weights in (None, "balanced"):
        training = balanced(epochs=12, class_weights=weights)
        learner = make_learner(
            "oracle",
            as_scenario(rare, "task_incremental"),
            tiny_bert,
            adapter=None,
            training=training,
        )
        list(learner.learn())
        of_rare.append(float(recalls(learner)[1::2].mean()))
    assert of_rare[0] < 0.2
    assert of_rare[1] > of_rare[0] + 0.2


@pytest.mark.parametrize("name", STEPPING)
def test_every_strategys_loss_weighs_rows_by_their_class(rare, tiny_bert, name):
    """It is linear in the weights of the task's two classes, and in no other's."""
    cls = strategy_class(name)
    kind = next((each for each in cls.scenarios if each != "domain_incremental"), "joint")
    learner, data = after(1, name, as_scenario(rare, kind), tiny_bert, training=balanced())
    strategy, task = learner.strategy, learner.stream.experiences[1].task
    strategy.begin_phase(learner.model, task, 0)
    state = deepcopy(strategy.state)

    def loss(*of_task):
        strategy.state = deepcopy(state)
        weights = torch.zeros(6)
        weights[list(task.classes)] = torch.tensor(of_task)
        with weighing(weights):
            return float(strategy.step(learner.model, data, NO_REPLAY).loss.detach())

    both, none = loss(1.0, 1.0), loss(0.0, 0.0)
    assert both > none
    assert loss(1.0, 0.0) + loss(0.0, 1.0) == pytest.approx(both + none, rel=1e-4)


def test_learners_of_a_cohort_do_not_see_each_others_weights(rare, tiny_bert):
    settings = {"plain": balanced(class_weights=None), "weighed": balanced()}

    def outcome(learner):
        return {name: each.detach().clone() for name, each in learner.model.parameters().items()}

    alone = {}
    for name, training in settings.items():
        learner = make_learner("finetune", rare, tiny_bert, training=training)
        list(learner.learn())
        alone[name] = outcome(learner)
    cohort, together = Cohort(64), shared(tiny_bert)
    members = {
        name: make_learner("finetune", rare, together, training=training)
        for name, training in settings.items()
    }
    for name, learner in members.items():
        cohort.add(name, learner)
    while cohort.can_advance:
        for boundary in cohort.advance():
            assert boundary.error is None
            (cohort.go_on if boundary.report else cohort.remove)(boundary.name)
    for name, learner in members.items():
        torch.testing.assert_close(outcome(learner), alone[name], rtol=0, atol=1e-5)
    assert not torch.allclose(alone["plain"]["head.weight"], alone["weighed"]["head.weight"])
