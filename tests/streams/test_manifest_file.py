"""A manifest as a file: the same content from JSON and Parquet, and nothing wrong let in."""

import json
from dataclasses import replace

import numpy as np
import pytest

from lamina.registry import InputError
from lamina.streams import build_stream, source_class
from lamina.streams.arrivals import arrival_class
from lamina.streams.dealing import make_manifest
from lamina.streams.manifest import Client, RowSet, StreamManifest, entries_of
from lamina.streams.manifest_file import read_manifest, write_manifest
from lamina.streams.partitioners import partitioner_class
from lamina.streams.scenario import ScenarioSettings
from tables import stream_of, table_of

STREAM = stream_of(table_of())
ARRIVAL = arrival_class("poisson")(order="own", blurry=0.2, joining=0.5, leaving=0.5)


def manifest_of(stream=STREAM, seed=0):
    return make_manifest(stream, 4, partitioner_class("dirichlet")(alpha=1.0), ARRIVAL, seed)


@pytest.fixture
def plain(tmp_path):
    write_manifest(manifest_of(), tmp_path / "manifest.json")
    return json.loads((tmp_path / "manifest.json").read_text())


def read(tmp_path, plain):
    (tmp_path / "changed.json").write_text(json.dumps(plain))
    return read_manifest(tmp_path / "changed.json", STREAM)


@pytest.mark.parametrize("name", ["manifest.json", "manifest.parquet"])
def test_a_manifest_comes_back_with_its_hash_and_record(tmp_path, name):
    manifest = manifest_of()
    write_manifest(manifest, tmp_path / name)
    found = read_manifest(tmp_path / name, STREAM)
    assert found == manifest
    assert found.hash == manifest.hash
    assert found.clients == manifest.clients
    assert found.record == manifest.record
    for column, expected in vars(manifest.entries).items():
        np.testing.assert_array_equal(getattr(found.entries, column), expected)


def test_a_manifest_of_real_data_goes_through_both_formats(tmp_path):
    scenario = ScenarioSettings(kind="class_incremental")
    stream = build_stream(source_class("digits")(), scenario, seed=0)
    manifest = manifest_of(stream)
    for name in ("manifest.json", "manifest.parquet"):
        write_manifest(manifest, tmp_path / name)
        assert read_manifest(tmp_path / name, stream) == manifest


def test_the_hash_is_of_the_content_and_not_of_the_record():
    manifest = manifest_of()
    assert replace(manifest, record={}).hash == manifest.hash
    assert replace(manifest, clients=manifest.clients[::-1]).hash != manifest.hash
    later = replace(manifest.entries, time=manifest.entries.time + 1)
    assert replace(manifest, entries=later).hash != manifest.hash


def test_the_hash_stays_the_same_from_one_version_to_the_next():
    sets = [
        RowSet(0, "train", 1, np.array([5, 2]), 0.5, "start"),
        RowSet(0, "test", 1, np.array([3])),
        RowSet(1, "train", 0, np.array([4])),
    ]
    clients = (Client("kitchen"), Client("garage", 1.5, 2.0))
    manifest = StreamManifest("of rows", ("lights", "doors"), clients, entries_of(sets))
    assert manifest.hash == "26e754a8b1b576229758181da4ec2c91bbfd9a76fc0194ad65ed8340eabc4dbe"
    assert replace(manifest, entries=entries_of(sets[::-1])).hash == manifest.hash


def test_the_order_of_entries_in_a_file_does_not_matter(tmp_path, plain):
    expected = plain["hash"]
    plain["entries"].reverse()
    plain["entries"][0]["rows"].reverse()
    assert read(tmp_path, plain).hash == expected


def test_a_manifest_written_by_hand_needs_no_hash(tmp_path, plain):
    del plain["hash"], plain["record"]
    for entry in plain["entries"]:
        if entry["time"] is None:
            del entry["time"], entry["drift"]
    assert read(tmp_path, plain) == manifest_of()


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: plain["entries"][0]["rows"].pop(),
        lambda plain: plain["entries"].pop(),
        lambda plain: plain["clients"][0].update(joined=0.001),
        lambda plain: plain["entries"][0].update(time=plain["entries"][0]["time"] + 1e-6),
        lambda plain: plain["entries"][0].update(drift="recurring"),
    ],
)
def test_a_manifest_that_was_tampered_with_is_refused(tmp_path, plain, change):
    change(plain)
    with pytest.raises(InputError, match=r"^manifest\.hash: .* changed after it was written"):
        read(tmp_path, plain)


@pytest.mark.parametrize(
    "other",
    [
        stream_of(table_of(rows_per_class=41)),
        stream_of(table_of(), validation=0.3),
        stream_of(replace(table_of(), values=["other"] * 240)),
    ],
)
def test_a_manifest_of_other_rows_is_refused(tmp_path, other):
    write_manifest(manifest_of(), tmp_path / "manifest.json")
    with pytest.raises(InputError, match=r"^manifest\.fingerprint: .* is of other rows"):
        read_manifest(tmp_path / "manifest.json", other)


def _set(*path):
    *above, last, value = path

    def change(plain):
        for key in above:
            plain = plain[key]
        plain[last] = value

    return change


def _first(plain, part):
    return next(entry for entry in plain["entries"] if entry["part"] == part)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("version", 2), r"manifest\.version: "),
        (_set("tasks", ["a"]), r"manifest\.entries\.\d+\.task: \d is no task \(allowed: 0 to 0\)"),
        (_set("tasks", ["a", "b", "c"]), r"manifest\.tasks: a, b, c are not this stream's"),
        (_set("entires", []), r"manifest\.entires: Extra inputs"),
        (_set("clients", []), r"manifest\.clients: "),
        (_set("clients", 1, "name", "client 0"), r"manifest\.clients\.1\.name: .* given twice"),
        (_set("clients", 0, "left", 0.0), r"manifest\.clients\.0\.left: 0\.0 is not after"),
        (_set("clients", 0, "joined", -1), r"manifest\.clients\.0\.joined: "),
        (
            _set("entries", 2, "client", "client 9"),
            r"entries\.2\.client: 'client 9' is unknown; did",
        ),
        (_set("entries", 2, "part", "tests"), r"manifest\.entries\.2\.part: "),
        (_set("entries", 2, "rows", ["1"]), r"manifest\.entries\.2\.rows\.0: "),
        (_set("entries", 2, "rows", []), r"manifest\.entries\.2\.rows: "),
        (
            _set("entries", 0, "time", 0.0),
            r"come to client 'client 0' at 0\.0, when it is not there",
        ),
        (_set("entries", 0, "time", "soon"), r"manifest\.entries\.0\.time"),
        (_set("entries", 2, "drift", "slow"), r"manifest\.entries\.2\.drift: "),
        (lambda plain: plain.pop("entries"), r"manifest\.entries: Field required"),
        (
            lambda plain: _first(plain, "test").update(time=1.0),
            r"manifest\.entries\.\d+\.time: 1\.0 of rows that are evaluated",
        ),
        (
            lambda plain: _first(plain, "test").update(drift="start"),
            r"manifest\.entries\.\d+\.drift: 'start' of rows that never arrive",
        ),
        (
            lambda plain: _first(plain, "test")["rows"].append(99_999),
            r"manifest\.entries: row 99999 \(client 'client 0', test\) is not in the stream",
        ),
        (
            lambda plain: _first(plain, "test").update(part="validation"),
            r"manifest\.entries: row \d+ .* is in another part of the stream",
        ),
        (
            lambda plain: _first(plain, "test").update(task=2),
            r"manifest\.entries: row \d+ .* is of another task",
        ),
        (
            lambda plain: plain["entries"].append(plain["entries"][0]),
            r"manifest\.entries: row \d+ is given 2 times",
        ),
    ],
)
def test_what_is_not_allowed_is_named_by_its_key(tmp_path, plain, change, message):
    plain["hash"] = None
    plain["clients"][0]["joined"] = 0.5
    change(plain)
    with pytest.raises(InputError, match=message):
        read(tmp_path, plain)


def test_files_of_other_kinds_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no kind that is read .* \.json, \.parquet"):
        write_manifest(manifest_of(), tmp_path / "manifest.csv")
    with pytest.raises(InputError, match=r"^manifest: .* cannot be read \(No such file"):
        read_manifest(tmp_path / "manifest.json", STREAM)
    for name, message in {"a.json": "is not JSON", "a.parquet": "is not a stream manifest"}.items():
        (tmp_path / name).write_text("nothing")
        with pytest.raises(InputError, match=message):
            read_manifest(tmp_path / name, STREAM)
