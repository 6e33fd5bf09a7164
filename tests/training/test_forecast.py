"""What a sweep is expected to cost."""

from dataclasses import replace

import pytest

from lamina.training.forecast import Speed, Work, forecast, seconds_per_row, work_of
from lamina.training.pace import Pace, TaskPace
from nouns import as_scenario, nouns_stream

SPEED = Speed(start=4.0, row=0.01)
PACE = Pace(first=TaskPace(0.5, 0.2), later=TaskPace(0.3, 0.4), answer=0.02, phases=(1.0,))
STEPPED = Work(
    num_tasks=5,
    first_steps=40,
    later_steps=160,
    trained_rows=3000,
    evaluated_rows=2000,
    share=1 / 3,
    saved_by_packing=0.1,
)
COUNTED = replace(STEPPED, first_steps=4, later_steps=16, share=0.0, saved_by_packing=0.0)
FIRST, LATER = 0.5 + 40 * 0.2, 4 * 0.3 + 160 * 0.4
ASKED = {"distinct_rows": 1500, "hosts": 2}


def test_a_process_for_each_trial_starts_and_computes_the_frozen_layers_each_time():
    found = forecast([(STEPPED, PACE)] * 8, SPEED, keeps=True, **ASKED)
    prefix = 2 / 3 * 0.01 * (3000 + 2000)
    assert found.by_hand == pytest.approx(8 * (4.0 + FIRST + LATER + 2000 * 0.02 + prefix))


def test_training_and_evaluation_take_what_their_pace_says():
    alone = replace(STEPPED, saved_by_packing=0.0)
    found = forecast([(alone, PACE)] * 8, SPEED, keeps=True, **ASKED)
    assert found.training == pytest.approx(8 * (FIRST + LATER))
    assert found.evaluation == pytest.approx(8 * 2000 * 0.02)
    assert found.features == pytest.approx(1500 * 2 / 3 * 0.01)


def test_rows_are_looked_at_once_a_task_however_many_steps_there_are():
    alone = replace(STEPPED, saved_by_packing=0.0, first_batches=8, later_batches=40)
    pace = replace(PACE, first=TaskPace(0.5, 0.2, 0.01), later=TaskPace(0.3, 0.4, 0.02))
    found = forecast([(alone, pace)], SPEED, keeps=True, **ASKED)
    assert found.training == pytest.approx(FIRST + LATER + 8 * 0.01 + 40 * 0.02)


def test_packing_saves_its_seconds_of_every_step():
    found = forecast([(STEPPED, PACE)] * 8, SPEED, keeps=True, **ASKED)
    assert found.saved["packing"] == pytest.approx(8 * 200 * 0.1)


def test_what_the_levers_save_is_what_lies_between_by_hand_and_here():
    works = [(replace(STEPPED, stage=4), PACE)] * 4 + [(COUNTED, PACE)] * 3
    found = forecast(works, SPEED, keeps=True, halving=(2, 2), **ASKED)
    here = found.by_hand - sum(found.saved.values()) + found.overhead
    assert here == pytest.approx(found.total)
    assert all(seconds > 0 for seconds in found.saved.values())


def test_a_shared_first_task_is_learned_once_for_all():
    alone = replace(STEPPED, saved_by_packing=0.0)
    found = forecast([(replace(alone, stage=4), PACE)] * 4, SPEED, keeps=True, **ASKED)
    assert found.training == pytest.approx(FIRST + 4 * LATER)


def test_without_features_and_packs_only_the_start_is_saved():
    alone = replace(STEPPED, saved_by_packing=0.0)
    found = forecast([(alone, PACE)] * 3, SPEED, keeps=False, **ASKED)
    saved = {name: seconds for name, seconds in found.saved.items() if seconds}
    assert saved == {"hosts that stay": pytest.approx(4.0)}


@pytest.mark.parametrize(("tasks", "share"), [(2, 1.0), (5, (2 + 2 / 2 + 1 / 4) / 5), (10, 0.425)])
def test_halving_leaves_the_share_of_tasks_that_its_rungs_say(tasks, share):
    work = replace(STEPPED, num_tasks=tasks)
    whole = forecast([(work, PACE)], SPEED, keeps=True, **ASKED)
    halved = forecast([(work, PACE)], SPEED, keeps=True, halving=(2, 2), **ASKED)
    assert halved.training / whole.training == pytest.approx(share)


def test_the_work_of_a_trial_is_read_off_its_stream(tiny_bert):
    stream = nouns_stream(tiny_bert)
    work = work_of(stream, [9, 9, 9], [3, 3, 3], 4, 0.5, 0.0, 1)
    assert (work.num_tasks, work.first_steps, work.later_steps) == (3, 9, 18)
    assert (work.first_batches, work.later_batches) == (3, 6)
    assert work.trained_rows == 27 * 4
    assert work.evaluated_rows == (2 + 4) * (1 + 2 + 3)
    domains = as_scenario(stream, "domain_incremental")
    assert work_of(domains, [9, 9, 9], [3, 3, 3], 4, 0.5, 0.0, 1).evaluated_rows == (2 + 4) * 3 * 3


def test_one_that_waits_for_all_tasks_is_evaluated_once(tiny_bert):
    work = work_of(nouns_stream(tiny_bert), [27], [9], 4, 0.5, 0.0, 1)
    assert (work.num_tasks, work.first_steps, work.later_steps) == (1, 27, 0)
    assert work.evaluated_rows == (2 + 4) * 3


def test_the_seconds_of_a_row_are_measured(tiny_bert):
    assert 0 < seconds_per_row(tiny_bert, nouns_stream(tiny_bert).experiences[0].train) < 1
