"""Tasks that come back, classes that blur, streams without boundaries."""

from collections import Counter

import pytest

from lamina.core import PARTS
from lamina.registry import InputError
from lamina.streams import ScenarioSettings, Table, make_stream

LABELS = [f"class {number}" for number in range(6)]
TABLE = Table(
    modality="text",
    values=[f"{label}, row {row}" for label in LABELS for row in range(40)],
    labels=[label for label in LABELS for _ in range(40)],
    classes=LABELS,
    groups=None,
)


def stream_of(seed=0, **settings):
    return make_stream(TABLE, ScenarioSettings("class_incremental", 3, **settings), seed)


def home(stream, row):
    """The task that a row belongs to where nothing blurs."""
    return LABELS.index(TABLE.labels[row]) // 2


def test_a_recurring_task_comes_back_with_its_classes_and_other_rows():
    once, thrice = stream_of(), stream_of(recurrences=3)
    assert [each.task.name for each in thrice.experiences][2:5] == [
        "task 3",
        "task 1 (2)",
        "task 2 (2)",
    ]
    for index, each in enumerate(thrice.experiences):
        assert each.task.classes == once.experiences[index % 3].task.classes
        for part in PARTS:
            assert set(each.part(part).labels.tolist()) == set(each.task.classes)
    for part in PARTS:
        rows = [row for each in thrice.experiences for row in each.part(part).ids.tolist()]
        assert len(rows) == len(set(rows))
        assert sorted(rows) == sorted(
            row for each in once.experiences for row in each.part(part).ids.tolist()
        )


def test_a_class_with_too_few_rows_to_come_back_is_refused():
    with pytest.raises(InputError, match=r"scenario.recurrences: 30 is more than class 'class"):
        stream_of(recurrences=30)


def test_blur_moves_the_wanted_share_of_the_training_rows_of_the_wanted_classes():
    sharp, stream = stream_of(), stream_of(blurry=0.5, disjoint=0.5)
    moved = Counter()
    for each in stream.experiences:
        for row in each.train.ids.tolist():
            moved[TABLE.labels[row]] += home(stream, row) != each.task.index
    total = Counter(
        TABLE.labels[row] for each in sharp.experiences for row in each.train.ids.tolist()
    )
    assert sorted(moved[label] for label in LABELS)[:3] == [0, 0, 0]
    for label in LABELS:
        assert moved[label] in (0, total[label] // 2)
    assert sum(value > 0 for value in moved.values()) == 3


def test_blur_leaves_what_is_evaluated_where_it_is_and_tasks_show_all_that_comes():
    stream = stream_of(blurry=0.3, disjoint=0.0)
    for each in stream.experiences:
        for part in ("validation", "test"):
            assert {home(stream, row) for row in each.part(part).ids.tolist()} == {each.task.index}
        assert set(each.train.labels.tolist()) <= set(each.task.classes)
        schedule = stream.record["tasks"][each.task.index]["schedule"]
        assert schedule == {
            stream.class_names[number]: each.train.labels.tolist().count(number)
            for number in each.task.classes
        }


def test_the_seed_decides_what_blurs_and_the_digest_tells():
    digests = {stream_of(seed, blurry=0.4).record["digest"] for seed in (0, 0, 1)}
    assert len(digests) == 2
    assert stream_of().record["digest"] not in digests


def test_a_task_free_stream_is_online_and_so_is_any_other_that_asks_for_it():
    assert make_stream(TABLE, ScenarioSettings("task_free", 3), 0).one_pass
    assert stream_of(online=True).one_pass
    assert not stream_of().one_pass


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"blurry": 1.0}, "scenario.blurry: 1.0 is no share"),
        ({"disjoint": -0.1}, "scenario.disjoint: -0.1 is no share"),
        ({"recurrences": 0}, "scenario.recurrences: 0 is too few"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused_by_its_key(settings, line):
    with pytest.raises(InputError, match=line):
        ScenarioSettings("class_incremental", 3, **settings)


def test_one_task_of_all_can_neither_blur_nor_come_back():
    with pytest.raises(InputError, match=r"scenario.blurry: 0.1 does not fit kind 'joint'"):
        ScenarioSettings("joint", blurry=0.1)
