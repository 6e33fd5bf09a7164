"""How fast learners train and answer is measured on a piece of their stream."""

import math

import pytest

from lamina.training.pace import MOST_TASKS, ROWS_PER_CLASS, STEPS, measure, num_steps, warm_up
from lamina.training.settings import TrainingSettings
from nouns import as_scenario, make_learner, nouns_stream

TRAINING = TrainingSettings(epochs=3, batch_size=2, learning_rate=1e-2)


def builder(name, backbone, **settings):
    return lambda piece, training: make_learner(
        name, piece, backbone, training=training, **settings
    )


@pytest.mark.parametrize("name", ["er", "simplecil", "joint", "sema", "ranpac"])
def test_learners_of_every_sort_have_a_pace(tiny_bert, name):
    stream = nouns_stream(tiny_bert)
    pace = measure(builder(name, tiny_bert), stream, TRAINING)
    seconds = [pace.first.task, pace.first.step, pace.later.task, pace.later.step, pace.answer]
    assert all(math.isfinite(each) and each >= 0 for each in seconds)
    assert pace.answer > 0
    assert pace.first.task + pace.first.step > 0


def test_a_piece_is_as_large_as_the_steps_that_are_measured(tiny_bert):
    stream = nouns_stream(tiny_bert)
    for name, keeps, tasks in (("finetune", True, 1), ("er", True, 2), ("er", False, 2)):
        learner = warm_up(builder(name, tiny_bert), stream, TRAINING, keeps=keeps)
        rows = max(STEPS[keeps] * 2, ROWS_PER_CLASS * 2)
        assert [len(each.train) for each in learner.stream.experiences] == [rows] * MOST_TASKS
        assert learner.num_steps == tasks * rows / 2


@pytest.mark.parametrize(
    ("name", "first", "later"),
    [("finetune", 15, 15), ("simplecil", 5, 5), ("ranpac", 15, 5), ("joint", 15, 15)],
)
def test_steps_are_counted_as_a_learner_takes_them(tiny_bert, name, first, later):
    settings = {} if name != "ranpac" else {"adapter": "lora"}
    learner = make_learner(name, nouns_stream(tiny_bert), tiny_bert, training=TRAINING, **settings)
    list(learner.learn())
    phases = learner.strategy.phases(learner.stream.experiences[-1].task)
    assert num_steps(learner, phases, 3, 10, is_first=True) == first
    assert num_steps(learner, phases, 3, 10, is_first=False) == later


def test_a_method_with_phases_is_asked_when_it_has_learned(tiny_bert):
    stream = nouns_stream(tiny_bert)
    learner = make_learner("sema", stream, tiny_bert, training=TRAINING)
    taken = []
    for _ in learner.learn():
        taken.append(learner.num_steps - sum(taken))
    phases = learner.strategy.phases(stream.experiences[-1].task)
    assert num_steps(learner, phases, 3, 10, is_first=False) == taken[-1]


def test_a_stream_that_passes_once_has_one_step_for_each_batch(tiny_bert):
    stream = as_scenario(nouns_stream(tiny_bert), "task_free")
    learner = make_learner("er", stream, tiny_bert, training=TRAINING)
    list(learner.learn())
    assert learner.num_steps == 3 * num_steps(learner, (1.0,), 3, 10, is_first=False)
