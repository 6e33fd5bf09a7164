"""A learner on one client's own stream: what a federation is compared with."""

from dataclasses import replace

import pytest

from lamina.streams.arrivals import arrival_class
from lamina.streams.client_streams import ClientStreams
from lamina.streams.dealing import make_manifest
from lamina.streams.partitioners import partitioner_class
from nouns import make_learner, nouns_stream


@pytest.fixture(scope="module")
def streams(tiny_bert):
    whole = nouns_stream(tiny_bert)
    arrival = arrival_class("in_step")(order="own", recurrences=2, blurry=0.3)
    manifest = make_manifest(whole, 2, partitioner_class("iid")(), arrival, seed=1)
    return ClientStreams(whole, manifest)


@pytest.mark.parametrize("strategy", ["finetune", "er"])
def test_a_client_learns_its_own_stream_by_itself(strategy, streams, tiny_bert):
    stream = streams[0]
    tasks = [delivery.task for delivery in streams.manifest.deliveries(0)]
    assert tasks != sorted(tasks)
    reports = list(make_learner(strategy, stream, tiny_bert).learn())
    assert [report.task_name for report in reports] == [
        each.task.name for each in stream.experiences
    ]
    assert None not in reports[-1].test
    assert reports[-1].test[: len(streams.stream)] == pytest.approx(
        [reports[-1].test[tasks.index(task, 3)] for task in tasks[:3]]
    )


def test_a_task_without_rows_of_its_own_to_be_tested_on_has_no_accuracy(streams, tiny_bert):
    first, *rest = streams[0].experiences
    untested = replace(first, test=first.test[slice(0, 0)])
    stream = replace(streams[0], experiences=(untested, *rest))
    learner = make_learner("finetune", stream, tiny_bert)
    row = list(learner.learn())[-1].test
    assert [value is None for value in row] == [True, *[False] * 5]
