"""The corpus of inputs that nobody can mean (`helpers/malformed/`): each is one clear line, exit
code 2, at once, and nothing is left half-written. Job files are in `cli/test_malformed.py`."""

import json
import shutil

import pytest
import yaml
from click.testing import CliRunner

from lamina.adapters import kind_class
from lamina.adapters.peft_format import export_adapter, import_adapter
from lamina.bundles import open_bundle
from lamina.cli import main
from lamina.core import generator_of
from lamina.federation.privacy.wire import update_from_bytes
from lamina.orchestration.serving.question import RefusedError, read_question
from lamina.orchestration.serving.settings import ServingSettings
from lamina.registry import InputError
from lamina.training.checkpoint import unpack
from malformed.backbones import BACKBONES
from malformed.files import ADAPTERS, BUNDLES, CHECKPOINTS, UPDATES
from malformed.jobs import TEXTS, VALUES
from malformed.requests import REQUESTS
from malformed.tables import IMAGES, SOUND, TABLES, table
from served_bundles import write_served

MOST = 600
"""Characters of a line: who reads it is at a terminal."""


def test_the_corpus_has_more_than_150_inputs():
    corpora = (TEXTS, VALUES, TABLES, IMAGES, BACKBONES, ADAPTERS, CHECKPOINTS, UPDATES)
    assert sum(map(len, (*corpora, BUNDLES, REQUESTS))) > 150


def check_line(line: str, said: str) -> None:
    assert said in line
    assert "\n" not in line
    assert len(line) <= MOST
    assert "Traceback" not in line


@pytest.fixture
def refused(tmp_path):
    """The one line that `lamina WORDS` says; nothing may be left behind."""

    def line_of(*words):
        before = sorted(tmp_path.rglob("*"))
        result = CliRunner().invoke(main, list(map(str, words)))
        assert result.exit_code == 2, (result.output, result.exception)
        assert result.stdout == ""
        (line,) = result.stderr.splitlines()
        assert sorted(tmp_path.rglob("*")) == before
        return line

    return line_of


def job_of(folder, stream, backbone):
    path = folder / "job.yaml"
    job = {
        "stream": stream,
        "scenario": {"kind": "class_incremental", "num_tasks": 2},
        "backbone": {"name": str(backbone)},
        "adapter": None,
        "strategy": {"name": "ncm"},
        "output_dir": str(folder / "out"),
    }
    path.write_text(yaml.safe_dump(job))
    return path


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_cannot_be_read_is_one_line(refused, tmp_path, tiny_bert_folder, name):
    make, said = TABLES[name]
    (tmp_path / "data").mkdir()
    path = job_of(tmp_path, make(tmp_path / "data"), tiny_bert_folder)
    check_line(refused("run", path), said)


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_that_cannot_be_read_is_one_line(refused, tmp_path, tiny_vit_folder, name):
    make, said = IMAGES[name]
    (tmp_path / "data").mkdir()
    path = job_of(tmp_path, make(tmp_path / "data"), tiny_vit_folder)
    check_line(refused("run", path), said)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_folder_that_is_no_whole_model_is_one_line(refused, tmp_path, tiny_bert_folder, name):
    spoil, said = BACKBONES[name]
    shutil.copytree(tiny_bert_folder, tmp_path / "model")
    spoil(tmp_path / "model")
    path = job_of(tmp_path, table(SOUND)(tmp_path), tmp_path / "model")
    check_line(refused("run", path), said)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, tiny_bert):
    folder = tmp_path_factory.mktemp("adapter")
    kind = kind_class("lora")(rank=2)
    export_adapter(kind, kind.initialise(tiny_bert, generator_of(0, "a")), tiny_bert, folder)
    return kind, folder


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_folder_that_is_no_whole_adapter_is_one_line(tmp_path, adapter, tiny_bert, name):
    kind, sound = adapter
    folder = tmp_path / "adapter"
    shutil.copytree(sound, folder)
    ADAPTERS[name](folder)
    with pytest.raises(InputError) as refusal:
        import_adapter(kind, tiny_bert, folder)
    check_line(str(refusal.value), str(folder))


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_bytes_that_are_no_checkpoint_are_one_line(name):
    with pytest.raises(InputError) as refusal:
        unpack(CHECKPOINTS[name])
    check_line(str(refusal.value), "not a checkpoint: ")


@pytest.mark.parametrize("name", UPDATES)
def test_bytes_that_are_no_update_of_a_client_are_one_line(name):
    with pytest.raises(InputError) as refusal:
        update_from_bytes(UPDATES[name])
    check_line(str(refusal.value), "update: ")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, tiny_bert, tiny_bert_folder):
    return write_served("ncm", tmp_path_factory.mktemp("served"), tiny_bert, tiny_bert_folder)


@pytest.mark.parametrize("name", BUNDLES)
def test_a_folder_that_is_no_whole_bundle_is_one_line(refused, tmp_path, bundle, name):
    spoil, said = BUNDLES[name]
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    spoil(folder)
    (tmp_path / "new.csv").write_text("text\nturn on the light\n")
    check_line(refused("predict", folder, tmp_path / "new.csv"), said)


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_that_is_no_question_is_answered_with_the_key_that_is_wrong(bundle, name):
    body, key = REQUESTS[name]
    facts = open_bundle(bundle).facts
    with pytest.raises(RefusedError) as refusal:
        read_question(body, {"one": facts}, ServingSettings())
    assert refusal.value.status in (400, 404, 413)
    assert refusal.value.key == key
    check_line(refusal.value.message, f"{key}: ")
    json.dumps(refusal.value.message).encode()
