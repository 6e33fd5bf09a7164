"""How fast learners train and answer is measured on a piece of their stream."""

import math
import time

import pytest

from lamina.training.pace import (
    ANSWERED_ROWS,
    MOST_TASKS,
    ROWS_PER_CLASS,
    STEPS,
    TaskPace,
    measure,
    num_steps,
    piece_of,
    task_pace,
)
from lamina.training.settings import TrainingSettings
from lamina.training.stopwatch import Lap, Stopwatch
from nouns import as_scenario, make_learner, nouns_stream

TRAINING = TrainingSettings(epochs=3, batch_size=2, learning_rate=1e-2)


def builder(name, backbone, **settings):
    return lambda piece, training: make_learner(
        name, piece, backbone, training=training, **settings
    )


@pytest.mark.parametrize("name", ["er", "simplecil", "joint", "sema", "ranpac"])
def test_learners_of_every_sort_have_a_pace(tiny_bert, name):
    stream = nouns_stream(tiny_bert)
    piece = piece_of(stream, TRAINING.batch_size)
    pace = measure(builder(name, tiny_bert), piece, TRAINING)
    seconds = [pace.first.task, pace.first.step, pace.later.task, pace.later.step, pace.answer]
    assert all(math.isfinite(each) and each >= 0 for each in seconds)
    assert pace.answer > 0
    assert pace.first.task + pace.first.step > 0


def test_a_piece_is_as_large_as_the_steps_that_are_timed(tiny_bert):
    stream = nouns_stream(tiny_bert)
    for batch_size, rows in ((2, STEPS * 2), (1, ROWS_PER_CLASS * 2)):
        piece = piece_of(stream, batch_size)
        assert [len(each.train) for each in piece.experiences] == [rows] * MOST_TASKS
        assert all(len(each.test) <= ANSWERED_ROWS for each in piece.experiences)


def test_what_is_done_once_a_task_is_told_from_its_steps_and_from_looks_at_its_rows():
    steps = [Lap("step", 4, 5.0), Lap("step with exemplars", 4, 2.0), Lap("step", 4, 4.0)]
    looks = [Lap("preview", 8, 1.0), Lap("review", 8, 0.5)]
    assert task_pace([looks[0], *steps, looks[1]], 14.0, 3) == TaskPace(3.5, 3.0, 0.5)
    assert task_pace(looks, 4.0, 3) == TaskPace(2.5, 0.5)
    assert task_pace(steps[:1], 5.5, 1) == TaskPace(0.5, 5.0)


def test_operations_are_not_counted_where_the_pace_is_measured(tiny_bert):
    learner = make_learner("er", nouns_stream(tiny_bert), tiny_bert, training=TRAINING)
    watch = learner.scores.stopwatch = Stopwatch(time.thread_time)
    report = next(learner.learn())
    assert report.metrics["cost/train_flops"] == 0
    kinds = ["preview", *["step"] * learner.num_steps, "review"]
    assert [lap.kind for lap in watch.laps] == kinds
    assert sum(lap.seconds for lap in watch.laps) > 0


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
