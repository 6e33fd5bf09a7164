"""From a table to a stream: which classes each task shows, and what the record says of it."""

import json
from dataclasses import replace

import pytest
import torch

from lamina.core import PARTS
from lamina.registry import InputError
from lamina.streams import ScenarioSettings, Table, make_stream


def table_of(groups: dict[str, list[str]], rows_per_class: int = 12) -> Table:
    """`rows_per_class` different texts of every class of every group."""
    rows = [
        (group, label, f"{group} {label} {number}")
        for group, labels in groups.items()
        for label in labels
        for number in range(rows_per_class)
    ]
    return Table(
        modality="text",
        values=[text for _, _, text in rows],
        labels=[label for _, label, _ in rows],
        classes=list(dict.fromkeys(label for labels in groups.values() for label in labels)),
        groups=[group for group, _, _ in rows],
    )


ANIMALS = table_of({"cats": ["lion", "lynx"], "birds": ["owl"], "fish": ["eel", "cod", "ray"]})
UNGROUPED = replace(ANIMALS, groups=None)
REVIEWS = table_of({"films": ["bad", "good"], "books": ["bad", "good"], "games": ["good"]})


def classes_of(stream) -> list[list[str]]:
    return [[stream.class_names[c] for c in each.task.classes] for each in stream.experiences]


def rows_of(stream) -> list[int]:
    return [
        row for each in stream.experiences for part in PARTS for row in each.part(part).ids.tolist()
    ]


@pytest.mark.parametrize("kind", ["class_incremental", "task_incremental"])
def test_natural_groups_are_the_tasks(kind):
    stream = make_stream(ANIMALS, ScenarioSettings(kind=kind), seed=0)
    assert stream.scenario == kind
    assert [each.task.name for each in stream.experiences] == ["cats", "birds", "fish"]
    assert classes_of(stream) == [["lion", "lynx"], ["owl"], ["eel", "cod", "ray"]]


def test_classes_are_numbered_by_first_appearance():
    settings = ScenarioSettings(kind="class_incremental", num_tasks=3, shuffle=True)
    stream = make_stream(ANIMALS, settings, seed=1)
    assert [each.task.classes for each in stream.experiences] == [(0, 1), (2, 3), (4, 5)]
    assert sorted(stream.class_names) == sorted(ANIMALS.classes) != list(stream.class_names)
    for each in stream.experiences:
        labels = each.train.labels.tolist()
        assert [stream.class_names[label] for label in labels] == [
            ANIMALS.labels[row] for row in each.train.ids.tolist()
        ]


def test_classes_are_dealt_evenly_with_the_longer_tasks_first():
    settings = ScenarioSettings(kind="class_incremental", num_tasks=4)
    stream = make_stream(UNGROUPED, settings, seed=0)
    assert classes_of(stream) == [["lion", "lynx"], ["owl", "eel"], ["cod"], ["ray"]]


def test_shuffling_natural_groups_moves_whole_tasks():
    settings = ScenarioSettings(kind="class_incremental", shuffle=True)
    orders = {
        tuple(each.task.name for each in make_stream(ANIMALS, settings, seed).experiences)
        for seed in range(10)
    }
    assert len(orders) > 2
    assert all(sorted(order) == ["birds", "cats", "fish"] for order in orders)


def test_domains_share_their_classes():
    stream = make_stream(REVIEWS, ScenarioSettings(kind="domain_incremental"), seed=0)
    assert [each.task.name for each in stream.experiences] == ["films", "books", "games"]
    assert classes_of(stream) == [["bad", "good"], ["bad", "good"], ["good"]]
    assert stream.experiences[2].task.classes == (1,)


def test_joint_is_one_task_of_everything():
    stream = make_stream(REVIEWS, ScenarioSettings(kind="joint"), seed=0)
    assert classes_of(stream) == [["bad", "good"]]
    assert sorted(rows_of(stream)) == list(range(len(REVIEWS)))


@pytest.mark.parametrize("kind", ["class_incremental", "joint"])
def test_every_row_is_in_one_part_of_one_task_and_keeps_its_id(kind):
    stream = make_stream(ANIMALS, ScenarioSettings(kind=kind, shuffle=kind != "joint"), seed=2)
    assert sorted(rows_of(stream)) == list(range(len(ANIMALS)))
    train = stream.experiences[0].train
    assert list(train.values) == [ANIMALS.values[row] for row in train.ids.tolist()]
    assert train.labels.dtype == train.ids.dtype == torch.int64


def test_every_class_of_a_task_is_in_every_part():
    stream = make_stream(ANIMALS, ScenarioSettings(kind="class_incremental"), seed=0)
    for each in stream.experiences:
        for part in PARTS:
            assert set(each.part(part).labels.tolist()) == set(each.task.classes)


def test_a_limit_keeps_so_many_rows_of_a_class_in_each_part():
    settings = ScenarioSettings(kind="class_incremental", limit_per_class=2)
    stream = make_stream(ANIMALS, settings, seed=0)
    for each in stream.experiences:
        for part in PARTS:
            assert each.part(part).labels.bincount().max() <= 2
    everything = make_stream(ANIMALS, replace(settings, limit_per_class=100), seed=0)
    assert set(rows_of(stream)) < set(rows_of(everything))


def test_the_record_is_plain_json_and_says_what_the_stream_is():
    settings = ScenarioSettings(kind="class_incremental")
    stream = make_stream(ANIMALS, settings, seed=5, name="zoo", origin={"name": "zoo", "wing": 2})
    record = stream.record
    assert json.loads(json.dumps(record)) == record
    assert record["source"] == {"name": "zoo", "wing": 2}
    assert record["scenario"]["kind"] == "class_incremental"
    assert record["seed"] == 5
    assert record["tasks"][1] == {
        "name": "birds",
        "classes": ["owl"],
        "sizes": {"train": 8, "validation": 1, "test": 3},
        "schedule": {"owl": 8},
    }


def test_the_digest_tells_apart_whatever_differs_in_the_rows():
    settings = ScenarioSettings(kind="class_incremental")
    digest = make_stream(ANIMALS, settings, seed=0).record["digest"]
    renamed = replace(ANIMALS, values=["other", *ANIMALS.values[1:]])
    assert make_stream(ANIMALS, settings, seed=0).record["digest"] == digest
    assert make_stream(ANIMALS, settings, seed=1).record["digest"] != digest
    assert make_stream(renamed, settings, seed=0).record["digest"] != digest
    images = replace(
        ANIMALS,
        modality="image",
        values=[torch.full((2, 2, 3), row % 256, dtype=torch.uint8) for row in range(len(ANIMALS))],
    )
    darker = replace(images, values=[image // 2 for image in images.values])
    first, second = (make_stream(each, settings, 0).record["digest"] for each in (images, darker))
    assert first != second


@pytest.mark.parametrize("rows", [1, 2])
def test_a_class_without_a_row_for_every_part_is_refused_by_name(rows):
    lonely = table_of({"cats": ["lion"]})
    extra = table_of({"cats": ["puma"]}, rows_per_class=rows)
    table = Table(
        "text",
        values=[*lonely.values, *extra.values],
        labels=[*lonely.labels, *extra.labels],
        classes=["lion", "puma"],
        groups=[*lonely.groups, *extra.groups],
    )
    plural = "row" if rows == 1 else "rows"
    with pytest.raises(
        InputError, match=rf"^stream: class 'puma' of task 'cats' has {rows} {plural} \("
    ):
        make_stream(table, ScenarioSettings(kind="class_incremental"), seed=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "class_incremetal"}, r"scenario\.kind: .* did you mean 'class_incremental'\?"),
        ({"kind": "joint", "num_tasks": 2}, r"scenario\.num_tasks: 2 does not fit kind 'joint'"),
        ({"kind": "domain_incremental", "num_tasks": 2}, r"scenario\.num_tasks: 2 does not fit"),
        (
            {"kind": "domain_incremental", "by": "when"},
            r"scenario\.num_tasks: give this or scenario\.every with scenario\.by",
        ),
        (
            {"kind": "domain_incremental", "by": "when", "num_tasks": 2, "every": "month"},
            r"scenario\.num_tasks: give this or scenario\.every .* not both",
        ),
        ({"kind": "class_incremental", "num_tasks": 0}, r"scenario\.num_tasks: 0 is too few"),
        ({"kind": "class_incremental", "limit_per_class": 0}, r"scenario\.limit_per_class: 0 is"),
        (
            {"kind": "class_incremental", "validation": 0.0},
            r"scenario\.validation: 0\.0 is no share",
        ),
        ({"kind": "class_incremental", "test": 1.5}, r"scenario\.test: 1\.5 is no share"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_their_key(settings, message):
    with pytest.raises(InputError, match=f"^{message}"):
        ScenarioSettings(**settings)


@pytest.mark.parametrize(
    ("table", "settings", "message"),
    [
        (UNGROUPED, {"kind": "class_incremental"}, r"scenario\.num_tasks: null needs .* 1 to 6"),
        (
            UNGROUPED,
            {"kind": "domain_incremental"},
            r"scenario\.kind: .* needs a source with groups",
        ),
        (ANIMALS, {"kind": "class_incremental", "num_tasks": 7}, r"scenario\.num_tasks: 7 is more"),
        (
            REVIEWS,
            {"kind": "task_incremental"},
            r"scenario\.kind: .* class 'bad' occurs in .*'films'",
        ),
    ],
)
def test_a_scenario_that_does_not_fit_the_source_is_refused(table, settings, message):
    with pytest.raises(InputError, match=f"^{message}"):
        make_stream(table, ScenarioSettings(**settings), seed=0)
