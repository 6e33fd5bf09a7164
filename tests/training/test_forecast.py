"""What a sweep is expected to cost."""

from dataclasses import replace

import pytest

from lamina.training.forecast import Speed, Work, forecast, seconds_per_row, work_of
from nouns import nouns_stream

SPEED = Speed(start=4.0, row=0.01, gain=2.0)
ADAPTED = Work(num_tasks=5, trained_rows=3000, evaluated_rows=2000, share=1 / 3, has_steps=True)
COUNTED = Work(num_tasks=5, trained_rows=1000, evaluated_rows=2000, share=0.0, has_steps=False)
ASKED = {"distinct_rows": 1500, "hosts": 2}


def test_a_process_for_each_trial_starts_trains_and_evaluates_by_itself():
    found = forecast([ADAPTED] * 8, SPEED, keeps=True, **ASKED)
    steps = 3000 * (1 + 1 / 3) * 0.01
    assert found.by_hand == pytest.approx(8 * (4.0 + steps + 2000 * 0.01))


def test_kept_features_leave_the_upper_layers_of_each_step_and_one_pass_over_the_rows():
    slow = replace(SPEED, gain=1.0)
    found = forecast([ADAPTED] * 8, slow, keeps=True, **ASKED)
    assert found.training == pytest.approx(8 * 3000 * 2 / 3 * 0.01)
    assert found.evaluation == pytest.approx(8 * 2000 / 3 * 0.01)
    assert found.features == pytest.approx(1500 * 2 / 3 * 0.01)


def test_statistics_of_frozen_features_are_one_pass_for_the_whole_sweep():
    found = forecast([COUNTED] * 32, SPEED, keeps=True, **ASKED)
    assert found.training == found.evaluation == 0.0
    assert found.features == pytest.approx(1500 * 0.01)


def test_what_the_levers_save_is_what_lies_between_by_hand_and_here():
    works = [replace(ADAPTED, stage=4)] * 4 + [COUNTED] * 3
    found = forecast(works, SPEED, keeps=True, halving=(2, 2), **ASKED)
    here = found.by_hand - sum(found.saved.values()) + found.overhead
    assert here == pytest.approx(found.total)
    assert all(seconds > 0 for seconds in found.saved.values())


def test_without_features_and_packs_only_the_start_is_saved():
    found = forecast([ADAPTED] * 3, replace(SPEED, gain=1.0), keeps=False, **ASKED)
    saved = {name: seconds for name, seconds in found.saved.items() if seconds}
    assert saved == {"hosts that stay": pytest.approx(4.0)}


@pytest.mark.parametrize(("tasks", "share"), [(2, 1.0), (5, (2 + 2 / 2 + 1 / 4) / 5), (10, 0.425)])
def test_halving_leaves_the_share_of_tasks_that_its_rungs_say(tasks, share):
    work = replace(ADAPTED, num_tasks=tasks)
    whole = forecast([work], SPEED, keeps=True, **ASKED)
    halved = forecast([work], SPEED, keeps=True, halving=(2, 2), **ASKED)
    assert halved.training / whole.training == pytest.approx(share)


def test_the_work_of_a_trial_is_read_off_its_stream(tiny_bert):
    stream = nouns_stream(tiny_bert)
    work = work_of(stream, epochs=3, share=0.5, has_steps=True, stage=1)
    assert work.trained_rows == 3 * 3 * 10
    assert work.evaluated_rows == (2 + 4) * (1 + 2 + 3)
    assert work_of(stream, 3, 0.0, False, 1).trained_rows == 3 * 10


def test_the_seconds_of_a_row_are_measured(tiny_bert):
    assert 0 < seconds_per_row(tiny_bert, nouns_stream(tiny_bert).experiences[0].train) < 1
