"""Each client's own stream: the whole stream's rows, in its order, with the whole's classes."""

import pytest
import torch

from lamina.core import PARTS, Batch, Task
from lamina.registry import InputError
from lamina.streams import build_stream, source_class
from lamina.streams.arrivals import arrival_class
from lamina.streams.client_streams import ClientStreams
from lamina.streams.dealing import make_manifest
from lamina.streams.partitioners import partitioner_class
from lamina.streams.scenario import ScenarioSettings
from tables import stream_of, table_of

TABLE = table_of()
STREAM = stream_of(TABLE)


def manifest_of(stream=STREAM, clients=4, kind="iid", **arrival):
    arrival = arrival_class("in_step")(**arrival)
    return make_manifest(stream, clients, partitioner_class(kind)(), arrival, seed=0)


def encoded(samples):
    """As a backbone would: the number of letters of each text, and its id again."""
    letters = torch.tensor([len(text) for text in samples.values], dtype=torch.int64)
    return Batch({"letters": letters[:, None]}, samples.labels, samples.ids)


def labels_of(part):
    return dict(zip(part.ids.tolist(), part.labels.tolist(), strict=True))


@pytest.fixture
def streams():
    return ClientStreams(STREAM, manifest_of(order="own", blurry=0.3))


def test_an_experience_is_a_delivery_in_the_clients_own_order(streams):
    for client, stream in enumerate(streams):
        deliveries = streams.manifest.deliveries(client)
        names = [STREAM.experiences[delivery.task].task.name for delivery in deliveries]
        assert [each.task.name for each in stream.experiences] == names
        assert [each.task.index for each in stream.experiences] == [0, 1, 2]
        for delivery, each in zip(deliveries, stream.experiences, strict=True):
            assert sorted(each.train.ids.tolist()) == delivery.rows.tolist()


def test_rows_keep_their_values_and_the_numbers_of_their_classes(streams):
    whole: dict[int, int] = {}
    for each in STREAM.experiences:
        whole |= labels_of(each.train)
    for stream in streams:
        assert stream.class_names == STREAM.class_names
        for each in stream.experiences:
            for row, label in labels_of(each.train).items():
                assert label == whole[row]
            assert [TABLE.values[row] for row in each.train.ids.tolist()] == list(each.train.values)


def test_a_clients_streams_hold_all_its_rows_once(streams):
    held = {part: [] for part in PARTS}
    for stream in streams:
        for each in stream.experiences:
            for part in PARTS:
                held[part] += each.part(part).ids.tolist()
    for part in PARTS:
        expected = torch.cat([each.part(part).ids for each in STREAM.experiences])
        assert sorted(held[part]) == sorted(expected.tolist())


def test_classes_that_blur_into_a_task_come_after_its_own(streams):
    seen = 0
    for stream in streams:
        for each in stream.experiences:
            assert set(each.train.labels.tolist()) <= set(each.task.classes)
            assert set(each.test.labels.tolist()) <= set(each.task.classes[:2])
            seen += len(each.task.classes) > 2
    assert seen


def test_encoded_rows_are_picked_and_carry_the_clients_task():
    whole = STREAM.map(encoded)
    streams = ClientStreams(whole, manifest_of(order="own", blurry=0.3))
    for client in range(4):
        plain = ClientStreams(STREAM, streams.manifest)[client]
        for text, each in zip(plain.experiences, streams[client].experiences, strict=True):
            for part in PARTS:
                found = each.part(part)
                assert found.task == each.task == text.task
                assert found.ids.tolist() == text.part(part).ids.tolist()
                letters = [len(value) for value in text.part(part).values]
                assert found.inputs["letters"][:, 0].tolist() == letters


def test_a_task_that_comes_again_says_so_and_is_evaluated_on_the_same_rows():
    stream = ClientStreams(STREAM, manifest_of(recurrences=2))[0]
    names = [each.task.name for each in stream.experiences]
    assert names == [f"group {task}{again}" for again in ("", " (2)") for task in range(3)]
    first, again = stream.experiences[0], stream.experiences[3]
    assert not set(first.train.ids.tolist()) & set(again.train.ids.tolist())
    assert torch.equal(first.test.ids, again.test.ids)


def test_what_a_client_has_of_a_task_is_asked_for_by_part():
    streams = ClientStreams(STREAM, manifest_of())
    assert torch.equal(streams.part(1, "test", 2).ids, streams.manifest.rows(1, "test", 2))
    union = torch.cat([streams.part(client, "test").ids for client in range(4)])
    expected = torch.cat([each.test.ids for each in STREAM.experiences])
    assert torch.equal(union.sort().values, expected.sort().values)


def test_nothing_is_an_empty_part():
    streams = ClientStreams(STREAM, manifest_of())
    nothing = streams.rows(torch.empty(0, dtype=torch.int64))
    assert len(nothing) == len(nothing.values) == len(nothing.labels) == 0


def test_an_unknown_row_is_an_error():
    streams = ClientStreams(STREAM, manifest_of())
    with pytest.raises(KeyError, match="no row 240 in the stream"):
        streams.rows(torch.tensor([3, 240]))


def test_a_manifest_of_another_stream_is_refused():
    other = stream_of(table_of(rows_per_class=41))
    with pytest.raises(InputError, match=r"^manifest\.fingerprint"):
        ClientStreams(other, manifest_of())


def test_a_clients_stream_says_whose_it_is_and_of_which_manifest():
    streams = ClientStreams(STREAM, manifest_of())
    assert streams[2].name == "table/client 2"
    assert streams[2].record["client"] == "client 2"
    assert streams[2].record["manifest"] == streams.manifest.hash
    assert streams[2].scenario == "class_incremental"


def test_images_of_digits_stay_the_same_objects():
    whole = build_stream(source_class("digits")(), ScenarioSettings("class_incremental"), seed=0)
    streams = ClientStreams(whole, manifest_of(whole, clients=3, kind="dirichlet"))
    images = {
        row: image
        for each in whole.experiences
        for row, image in zip(each.train.ids.tolist(), each.train.values, strict=True)
    }
    for stream in streams:
        for each in stream.experiences:
            assert isinstance(each.task, Task)
            for row, image in zip(each.train.ids.tolist(), each.train.values, strict=True):
                assert image is images[row]
