"""The tweets stream: one domain per task, the same sentiments in all."""

import pytest

from lamina.core import PARTS
from lamina.registry import InputError
from lamina.streams import ScenarioSettings, make_stream, source_class


@pytest.fixture(scope="module")
def table():
    return source_class("tweets")().load(seed=0)


def test_every_domain_has_every_sentiment(table):
    domains = list(dict.fromkeys(table.groups))
    assert domains == [
        "driverless cars",
        "airlines",
        "coachella",
        "deflategate",
        "apple",
        "claritin",
    ]
    assert len(set(zip(table.groups, table.labels, strict=True))) == 6 * 3


def test_no_tweet_occurs_twice(table):
    assert len(set(table.values)) == len(table) > 30_000


def test_tweets_that_are_passed_on_stay_in_the_part_of_the_original(table):
    stream = make_stream(table, ScenarioSettings(kind="domain_incremental"), seed=0)
    part_of: dict[str, str] = {}
    for each in stream.experiences:
        for part in PARTS:
            for row in each.part(part).ids.tolist():
                assert part_of.setdefault(table.templates[row], part) == part
    assert len(part_of) < len(table)


def test_it_is_domain_incremental_by_nature(table):
    stream = make_stream(
        table, ScenarioSettings(kind="domain_incremental", limit_per_class=20), seed=0
    )
    assert [each.task.classes for each in stream.experiences] == [(0, 1, 2)] * 6
    assert stream.class_names == ("negative", "neutral", "positive")
    with pytest.raises(
        InputError, match=r"^scenario\.kind: 'class_incremental' .*domain_incremental"
    ):
        make_stream(table, ScenarioSettings(kind="class_incremental"), seed=0)
