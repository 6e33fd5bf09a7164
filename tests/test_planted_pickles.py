"""A pickle in every place that is read: none is loaded. It would leave a file behind if it were."""

import builtins
import io
import json
import pickle
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner

from lamina.adapters import kind_class
from lamina.adapters.peft_format import import_adapter
from lamina.backbones.features import _Shelf
from lamina.bundles import open_bundle
from lamina.cli import main
from lamina.cli.resuming import resume_run
from lamina.federation.privacy.wire import update_from_bytes
from lamina.orchestration.federated.round_store import RoundStore
from lamina.orchestration.payloads import Payloads
from lamina.orchestration.serving.question import RefusedError, read_question
from lamina.orchestration.serving.settings import ServingSettings
from lamina.orchestration.store.shared_store import SharedStore
from lamina.registry import InputError
from lamina.reporting.results import read_boards
from lamina.streams import ScenarioSettings, build_stream, source_class
from lamina.streams.images import decode
from lamina.streams.manifest_file import read_manifest
from lamina.training.checkpoint import unpack
from lamina.training.measured import measured
from served_bundles import write_served


class Planted:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return builtins.open, (str(self.marker), "w")


def torch_saved(planted: Planted) -> bytes:
    out = io.BytesIO()
    torch.save({"weight": planted}, out)
    return out.getvalue()


FORMS = {"pickle": pickle.dumps, "torch.save": torch_saved}


@pytest.fixture(params=FORMS)
def content(request, tmp_path):
    """The bytes of a pickle; at the end it has not been loaded."""
    marker = tmp_path / "marker"
    planted = FORMS[request.param](Planted(marker))
    yield planted
    assert not marker.exists(), "the pickle was loaded"


def test_the_pickle_would_leave_a_file_behind(tmp_path):
    marker = tmp_path / "marker"
    pickle.loads(pickle.dumps(Planted(marker))).close()
    assert marker.exists()


def test_in_a_checkpoint_an_update_and_a_request(content):
    for read in (unpack, update_from_bytes):
        with pytest.raises(InputError):
            read(content)
    with pytest.raises(RefusedError):
        read_question(content, {}, ServingSettings())


def test_in_a_stores_payload_under_its_own_digest(content, tmp_path):
    store = SharedStore(tmp_path / "store", "one")
    digest = Payloads(tmp_path / "store" / "payloads").put(content)
    with pytest.raises(InputError):
        unpack(store._payloads.get(digest))
    store.close()


def test_in_the_ledger_of_a_store(content, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "ledger.sqlite").write_bytes(content)
    with pytest.raises(InputError):
        SharedStore(tmp_path / "store", "one")


def test_in_the_round_of_a_federation_under_its_own_digest(content, tmp_path):
    store = RoundStore(tmp_path, "config")
    name = f"000001-{sha256(content).hexdigest()}.safetensors"
    (tmp_path / "rounds" / name).write_bytes(content)
    with pytest.raises(InputError, match="is damaged"):
        store.latest()
    (tmp_path / "rounds" / "bounds.json").write_bytes(content)
    assert store.bounds() is None


def test_in_an_adapter(content, tmp_path, tiny_bert):
    (tmp_path / "adapter_config.json").write_text("{}")
    kind = kind_class("lora")(rank=2)
    for name in ("adapter_model.bin", "adapter_model.safetensors", "adapter_config.json"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError):
            import_adapter(kind, tiny_bert, tmp_path)


def test_in_kept_features_and_measurements(content, tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert _Shelf(tmp_path).files == []
    monkeypatch.setenv("LAMINA_CACHE", str(tmp_path))
    measured({"of": "a"}, lambda: 1, torch.device("cpu"))
    (path,) = (tmp_path / "measured").glob("*.json")
    path.write_bytes(content)
    assert measured({"of": "a"}, lambda: 2, torch.device("cpu")) == 2


@pytest.mark.parametrize("ending", ["json", "parquet"])
def test_in_a_stream_manifest(content, tmp_path, ending):
    path = tmp_path / f"manifest.{ending}"
    path.write_bytes(content)
    with pytest.raises(InputError):
        read_manifest(path, None)


@pytest.mark.parametrize("name", ["data.pkl", "data.csv", "data.json", "data.parquet", "data.pt"])
def test_in_a_table(content, tmp_path, name):
    (tmp_path / name).write_bytes(content)
    source = source_class("huggingface")(path=str(tmp_path / name), text_column="text")
    with pytest.raises(InputError):
        build_stream(source, ScenarioSettings("class_incremental"), 0)


def test_in_an_image(content):
    with pytest.raises(InputError):
        decode(content, "a picture", "white")


def test_in_what_a_job_left_behind(content, tmp_path):
    (tmp_path / "leaderboard.json").write_bytes(content)
    (tmp_path / "job.json").write_bytes(content)
    for read in (read_boards, resume_run):
        with pytest.raises(InputError):
            read(tmp_path)


def test_in_a_job_file(tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "job.yaml"
    path.write_text(yaml.dump({"seed": Planted(marker)}, Dumper=yaml.Dumper))
    assert "!!python/object" in path.read_text()
    refused = CliRunner().invoke(main, ["check", str(path)])
    assert refused.exit_code == 2
    assert not marker.exists()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, tiny_bert, tiny_bert_folder):
    return write_served("ncm", tmp_path_factory.mktemp("served"), tiny_bert, tiny_bert_folder)


@pytest.mark.parametrize("name", ["bundle.json", "job.json", "model.safetensors"])
def test_in_a_bundle_also_where_its_digest_was_changed_with_it(content, bundle, tmp_path, name):
    facts = open_bundle(bundle).facts
    for path in bundle.rglob("*"):
        if path.is_file():
            copy = tmp_path / "bundle" / path.relative_to(bundle)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    folder = tmp_path / "bundle"
    if name != "bundle.json":
        files = {**facts.files, name: sha256(content).hexdigest()}
        (folder / "bundle.json").write_bytes(replace(facts, files=files).dump())
    (folder / name).write_bytes(content)
    with pytest.raises(InputError):
        open_bundle(folder).model  # noqa: B018


def test_in_the_events_of_a_run(content, tmp_path):
    """They are read for curves only: what is no JSON ends them."""
    row = {"trial": "a", "name": "a", "tasks_done": 0}
    (tmp_path / "leaderboard.json").write_text(json.dumps([row]))
    (tmp_path / "events.jsonl").write_bytes(content)
    (board,) = read_boards(tmp_path)
    assert board.trials[0].metrics == []
