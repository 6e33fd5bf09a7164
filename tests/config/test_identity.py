"""What a trial is known by: its settings, its rows and its weights, and not where these are."""

import csv
import json
import os
import shutil
from dataclasses import replace

import pytest
from safetensors.torch import load_file, save_file

from lamina.backbones.content import backbone_digest
from lamina.config import parse_job, stage_id
from lamina.config.clients import manifest_of
from lamina.config.identity import changed, check_learned_from, identified, learned_from
from lamina.core import PARTS
from lamina.digests import trial_id
from lamina.registry import InputError
from lamina.streams import build_stream
from lamina.streams.manifest_file import write_manifest

SPLITS = ("train", "validation", "test")


@pytest.fixture
def data(tmp_path):
    """A folder of three files, a part each, of two classes."""
    folder = tmp_path / "data"
    folder.mkdir()
    for part in SPLITS:
        write(folder, part, [[f"{part} {word} {n}", word] for word in ("on", "off") for n in "123"])
    return folder


def write(folder, part, rows, header=("text", "label")):
    with (folder / f"{part}.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def read(folder, part):
    with (folder / f"{part}.csv").open(newline="") as file:
        return list(csv.reader(file))[1:]


@pytest.fixture
def backbone(tmp_path, tiny_bert_folder):
    """A copy of a backbone, to be changed."""
    return shutil.copytree(tiny_bert_folder, tmp_path / "backbone")


@pytest.fixture
def job(data, backbone):
    """Makes the job of a trial."""

    def make(data=data, backbone=backbone, **sections):
        return parse_job(
            {
                "name": "small",
                "stream": {
                    "name": "huggingface",
                    "path": str(data),
                    "text_column": "text",
                    "label_column": "label",
                    "validation_split": "validation",
                    "test_split": "test",
                },
                "scenario": {"kind": "class_incremental", "num_tasks": 2},
                "backbone": {"name": str(backbone)},
                "strategy": {"name": "ewc"},
                "adapter": {"kind": "lora"},
                **sections,
            }
        )

    return make


def known(job):
    """A job with what is there for it to learn from, now."""
    return identified(job, learned_from(job, build_stream(job.stream, job.scenario, job.seed)))


def identity(job):
    return trial_id(known(job).mapping)


def test_the_same_rows_and_weights_make_the_same_trial_and_the_same_first_stage(job):
    assert identity(job()) == identity(job())
    assert stage_id(known(job())) == stage_id(known(job()))


@pytest.mark.parametrize("part", PARTS)
def test_a_row_that_changes_in_any_part_makes_another_trial(job, data, part):
    before = known(job())
    rows = read(data, part)
    write(data, part, [[f"{rows[0][0]}!", rows[0][1]], *rows[1:]])
    after = known(job())
    assert trial_id(before.mapping) != trial_id(after.mapping)
    assert stage_id(before) != stage_id(after)
    assert changed(before.learned_from, after.learned_from) == ["the data"]


def test_shuffled_labels_and_renamed_classes_make_other_trials(job, data):
    before = identity(job())
    for part in SPLITS:
        rows = read(data, part)
        write(data, part, [[text, {"on": "up", "off": "down"}[label]] for text, label in rows])
    renamed = identity(job())
    rows = read(data, "train")
    labels = [label for _, label in rows]
    write(data, "train", [[row[0], label] for row, label in zip(rows, labels[::-1], strict=True)])
    assert len({before, renamed, identity(job())}) == 3


def test_a_column_that_is_not_used_changes_nothing(job, data):
    before = identity(job())
    for part in SPLITS:
        write(data, part, [[*row, "x"] for row in read(data, part)], ("text", "label", "note"))
    assert identity(job()) == before


def test_data_and_model_that_were_moved_are_known(job, data, backbone, tmp_path):
    before = identity(job())
    moved = data.rename(tmp_path / "elsewhere"), backbone.rename(tmp_path / "another")
    assert identity(job(*moved)) == before


def test_other_weights_in_the_same_folder_make_another_trial(job, backbone):
    before = known(job())
    weights = load_file(backbone / "model.safetensors")
    name = next(iter(weights))
    weights[name] = weights[name] + 1
    save_file(weights, backbone / "model.safetensors", metadata={"format": "pt"})
    after = known(job())
    assert trial_id(before.mapping) != trial_id(after.mapping)
    assert changed(before.learned_from, after.learned_from) == ["the model"]


def test_weights_that_are_set_back_in_time_are_read_again(backbone):
    path = backbone / "model.safetensors"
    before, stat = backbone_digest(str(backbone)), path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    # As `cp -p` would have it.
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert backbone_digest(str(backbone)) != before


def test_a_tokenizer_is_part_of_a_model_and_its_prose_is_not(backbone):
    before = backbone_digest(str(backbone))
    (backbone / "README.md").write_text("Better than all others.")
    assert backbone_digest(str(backbone)) == before
    config = json.loads((backbone / "tokenizer_config.json").read_text())
    (backbone / "tokenizer_config.json").write_text(json.dumps({**config, "padding_side": "left"}))
    assert backbone_digest(str(backbone)) != before


def test_a_repository_of_the_hub_is_known_by_its_commit(monkeypatch, tmp_path, tiny_bert_folder):
    """A cache of the hub in which one repository has two revisions, one after the other."""
    cache = tmp_path / "hub"
    repository = cache / "models--somebody--tiny"
    digests = []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    for commit in ("a" * 40, "b" * 40):
        shutil.copytree(tiny_bert_folder, repository / "snapshots" / commit)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(commit)
        digests.append(backbone_digest("somebody/tiny"))
    assert digests[0] != digests[1]


def test_where_a_trial_runs_is_no_part_of_it(job, tmp_path):
    elsewhere = job(output_dir=str(tmp_path / "out"), hosts={"count": 3}, name="other")
    assert identity(elsewhere) == identity(job())


@pytest.mark.parametrize("change", [{"seed": 1}, {"training": {"epochs": 2}}])
def test_settings_make_another_trial(job, change):
    assert identity(job(**change)) != identity(job())


def test_what_is_not_what_a_job_says_it_learned_from_is_refused_in_one_line(job):
    there = known(job())
    check_learned_from(there, there.learned_from)
    with pytest.raises(InputError) as raised:
        check_learned_from(there, {**there.learned_from, "stream": "0123456789"})
    assert str(raised.value).startswith("learned_from.stream: ")
    assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match=r"learned_from.strem: unknown key"):
        check_learned_from(replace(there, learned_from={"strem": "x"}), {"stream": "x"})


def test_what_a_job_learned_from_is_part_of_its_settings(job):
    there = known(job())
    assert parse_job(there.settings()).learned_from == there.learned_from
    assert parse_job(there.mapping) == there


def federated(manifest=None, **more):
    federation = {"clients": 2, "rounds": 1, "partition": {"kind": "iid"}, **more}
    return {"strategy": {"name": "finetune"}, "federation": {**federation, "manifest": manifest}}


def test_a_manifest_that_changed_makes_another_trial(job, tmp_path):
    path = tmp_path / "manifest.json"
    found = []
    for seed in (0, 1):
        dealt = job(**federated(), seed=seed)
        raw = build_stream(dealt.stream, dealt.scenario, 0)
        write_manifest(manifest_of(dealt, raw), path)
        found.append(known(job(**federated(str(path)))))
    moved = known(job(**federated(str(path.rename(tmp_path / "moved.json")))))
    assert trial_id(found[0].mapping) != trial_id(found[1].mapping)
    assert changed(found[0].learned_from, found[1].learned_from) == ["which client has which rows"]
    assert trial_id(moved.mapping) == trial_id(found[1].mapping)
