"""Partitioners and arrivals as a job gives them: plain values, read by their fields."""

import json

import pytest

from lamina.config.fields import read_fields
from lamina.streams.arrivals import arrival_class, arrival_names
from lamina.streams.partitioners import partitioner_class, partitioner_names

NEEDED = {"trace": {"path": "trace.csv"}}


@pytest.mark.parametrize("name", partitioner_names())
def test_a_partitioner_is_read_back_from_its_settings(name):
    made = partitioner_class(name)()
    plain = json.loads(json.dumps(made.settings))
    problems: list[str] = []
    assert plain.pop("kind") == name
    assert read_fields(type(made), plain, "federation.partition", problems) == made
    assert problems == []


@pytest.mark.parametrize("name", arrival_names())
def test_an_arrival_is_read_back_from_its_settings(name):
    made = arrival_class(name)(**NEEDED.get(name, {}), order="own", pieces=3, joining=0.25)
    plain = json.loads(json.dumps(made.settings))
    problems: list[str] = []
    assert plain.pop("kind") == name
    assert read_fields(type(made), plain, "federation.arrival", problems) == made
    assert problems == []


def test_several_mistakes_of_a_section_are_all_named():
    problems: list[str] = []
    given = {"order": "won", "rat": 2, "pieces": 1.5}
    assert read_fields(arrival_class("poisson"), given, "federation.arrival", problems) is None
    assert [problem.split(":")[0] for problem in problems] == [
        "federation.arrival.order",
        "federation.arrival.rat",
        "federation.arrival.pieces",
    ]


def test_a_value_that_makes_no_sense_is_named_once():
    problems: list[str] = []
    given = {"alpha": 0.0}
    read_fields(partitioner_class("dirichlet"), given, "federation.partition", problems)
    assert problems == ["federation.partition.alpha: 0.0 is not allowed (allowed: above 0)"]
