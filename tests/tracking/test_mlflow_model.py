"""The best bundle of a sweep as an MLflow model, and the data that runs learned from."""

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import pandas
import pytest
from mlflow import MlflowClient

from bundle_cases import mapping_of, new_learner, write_data
from lamina.bundles import Predictor, load_predictor, open_bundle, write_bundle
from lamina.tracking.data import data_document
from lamina.tracking.mlflow_store import embedded_uri
from lamina.tracking.mlflow_tracker import CANDIDATE, MODEL, MlflowTracker
from lamina.tracking.model import tracked_model
from language_models import write_model
from served_bundles import write_speaking

# MLflow 3.17 asks SQLAlchemy 2.1 for a way of loading that is on its way out.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

TEXTS = ["turn on the light", "door please", "is there a timer in the kitchen"]


@pytest.fixture(scope="module")
def learner(tiny_bert, tiny_bert_folder, tmp_path_factory):
    """A job that has learned two tasks and routes, with its learner."""
    data = write_data(tmp_path_factory.mktemp("nouns") / "data", range(2))
    job, learner = new_learner(mapping_of("color", data, tiny_bert_folder), tiny_bert)
    list(learner.learn())
    return job, learner


@pytest.fixture(scope="module")
def bundles(learner, tmp_path_factory):
    """Two trials' bundles."""
    folder = tmp_path_factory.mktemp("trials")
    for trial in ("color-0", "color-1"):
        write_bundle(*learner, folder / trial, name=trial, trial=trial)
    return folder


@pytest.fixture
def sweep(output_dir, bundles, request):
    """Tells of a sweep whose best trial this is, and returns its run."""

    def told(trial: str, **options):
        tracker = MlflowTracker(
            output_dir, experiment="models", run=request.node.name, register="nouns", **options
        )
        tracker.start_sweep("nouns", {})
        tracker.model(tracked_model(bundles / trial))
        tracker.finish_sweep("finished")
        tracker.close()
        client = MlflowClient(embedded_uri(output_dir))
        experiment = client.get_experiment_by_name("models").experiment_id
        (run,) = client.search_runs([experiment], f"tags.`lamina.run` = '{request.node.name}'")
        return run

    return told


@pytest.mark.parametrize("given", [TEXTS, pandas.DataFrame({"anything": TEXTS}, index=[7, 8, 9])])
def test_the_model_of_a_sweep_answers_as_its_bundle_does(
    sweep, output_dir, bundles, tiny_bert, monkeypatch, given
):
    from mlflow import pyfunc

    run = sweep("color-0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", embedded_uri(output_dir))
    answers = pyfunc.load_model(f"runs:/{run.info.run_id}/{MODEL}").predict(given)
    expected = Predictor(open_bundle(bundles / "color-0"), tiny_bert).predict(TEXTS)
    assert list(answers.label) == [each.label for each in expected]
    assert list(answers.task) == [each.task for each in expected]
    assert list(answers.score) == pytest.approx([each.score for each in expected], abs=1e-6)
    assert list(answers.index) == list(pandas.DataFrame(given).index)


def test_a_language_model_s_model_says_what_its_bundle_does(
    sweep, output_dir, bundles, tmp_path, monkeypatch
):
    from mlflow import pyfunc

    write_speaking("finetune", bundles / "speaks-0", write_model("gpt2", tmp_path / "model"))
    run = sweep("speaks-0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", embedded_uri(output_dir))
    model = pyfunc.load_model(f"runs:/{run.info.run_id}/{MODEL}")
    given = pandas.DataFrame({"anything": TEXTS}, index=[7, 8, 9])
    said = model.predict(given, params={"max_new_tokens": 5})
    expected = load_predictor(open_bundle(bundles / "speaks-0")).generate(TEXTS, max_new_tokens=5)
    assert list(said.text) == [each.text for each in expected]
    assert list(said.is_whole) == [each.is_whole for each in expected]
    (most,) = model.metadata.get_params_schema().params
    assert most.default == open_bundle(bundles / "speaks-0").job.training.max_new_tokens
    assert list(said.index) == [7, 8, 9]


def test_mlflows_own_command_predicts(sweep, output_dir, tmp_path):
    run = sweep("color-0")
    pandas.DataFrame({"text": TEXTS}).to_csv(tmp_path / "new.csv", index=False)
    model = f"runs:/{run.info.run_id}/{MODEL}"
    command = [
        *(Path(sys.executable).with_name("mlflow"), "models", "predict", "-m", model),
        *("--env-manager", "local", "-t", "csv", "-i", tmp_path / "new.csv"),
        *("-o", tmp_path / "answers.json"),
    ]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": embedded_uri(output_dir)}
    subprocess.run(command, check=True, capture_output=True, env=environment, cwd=tmp_path)
    answers = json.loads((tmp_path / "answers.json").read_text())["predictions"]
    assert [set(each) for each in answers] == [{"label", "score", "task"}] * 3


def test_nothing_in_a_model_is_pickled_and_it_names_what_it_needs(sweep, client):
    run = sweep("color-0")
    (made,) = client.search_logged_models(
        [run.info.experiment_id], f"source_run_id = '{run.info.run_id}'"
    )
    folder = Path(url2pathname(urlparse(made.artifact_location).path))
    names = [path.name for path in folder.rglob("*")]
    assert not [name for name in names if name.endswith((".pkl", ".pt", ".bin"))]
    needed = (folder / "requirements.txt").read_text()
    assert all(f"{each}==" in needed for each in ("lamina", "torch", "transformers", "peft"))
    assert made.tags["lamina.strategy"] == "color"


def test_a_model_is_registered_once_and_the_newest_is_the_candidate(sweep, client):
    first = sweep("color-0")
    sweep("color-0")
    name = f"name = 'nouns' and run_id = '{first.info.run_id}'"
    (version,) = client.search_model_versions(name)
    assert version.tags["trial"] == "color-0"
    assert float(version.tags["validation_average_accuracy"]) <= 1.0
    sweep("color-1")
    assert client.get_model_version_by_alias("nouns", CANDIDATE).tags["trial"] == "color-1"
    (kept,) = client.search_logged_models(
        [first.info.experiment_id], f"source_run_id = '{first.info.run_id}'"
    )
    assert kept.tags["lamina.trial"] == "color-1"


def test_a_run_names_its_data_and_no_row_of_it(output_dir, client, learner, request):
    job, learned = learner
    data = data_document(learned.stream, "0123456789", job.stream.path)
    for _ in range(2):
        tracker = MlflowTracker(output_dir, experiment="models", run=request.node.name)
        tracker.start_trial("t0", {}, "color", "Strategy **color**")
        tracker.data("t0", data)
        tracker.finish_trial("t0", "finished")
        tracker.close()
    experiment = client.get_experiment_by_name("models").experiment_id
    (run,) = client.search_runs([experiment], f"tags.`lamina.run` = '{request.node.name}'")
    (given,) = run.inputs.dataset_inputs
    assert (given.dataset.digest, given.dataset.source_type) == ("0123456789", "local")
    profile = json.loads(given.dataset.profile)
    assert profile["rows"] == {"train": 20, "validation": 4, "test": 8}
    assert [each["classes"] for each in profile["tasks"]] == [2, 2]
    assert "turn on" not in given.dataset.profile
    assert run.data.tags["mlflow.note.content"].startswith("Strategy **color**")


def test_a_bundle_says_how_well_each_class_is_known(bundles, learner):
    said = json.loads((bundles / "color-0" / "classes.json").read_text())
    assert [each["name"] for each in said["tasks"]] == ["task 0", "task 1"]
    named = [name for each in said["tasks"] for name in each["classes"]]
    assert [each["name"] for each in said["classes"]] == named
    found = [each for each in learner[1].scores.answers["test"] if each is not None]
    right = sum(each["test"]["rows"] * each["test"]["accuracy"] for each in said["classes"])
    assert round(right) == sum(int(each.right.sum()) for each in found)
