"""Where runs are, and how to look at them."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import chdir, suppress
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from mlflow import MlflowClient

from lamina.registry import InputError
from lamina.tracking.mlflow_store import check_uri, ui_command, ui_page
from lamina.tracking.mlflow_tracker import MlflowTracker

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


@pytest.fixture(scope="module")
def server(output_dir, tmp_path_factory):
    """The address of MLflow's server on the embedded store, started by our own command."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with chdir(tmp_path_factory.mktemp("here")):
        command = f"exec {ui_command(output_dir)} --port {port}"
        process = subprocess.Popen(
            command,
            shell=True,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )
    said = []
    try:
        for line in process.stdout:
            said.append(line)
            if "Application startup complete" in line:
                break
        else:
            pytest.fail("".join(said))
        _wait_until_it_listens(port)
        yield f"http://127.0.0.1:{port}"
        os.killpg(process.pid, signal.SIGTERM)
    finally:
        process.communicate()


def _wait_until_it_listens(port: int) -> None:
    """A server says that it has started before it listens."""
    for _ in range(600):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.1)
    pytest.fail(f"nothing listens at port {port}")


def ask(server: str, path: str, question: dict) -> dict:
    """What MLflow's REST interface, which its pages use too, answers."""
    address = f"{server}/api/2.0/mlflow/{path}"
    request = Request(address, json.dumps(question).encode(), {"Content-Type": "application/json"})
    with urlopen(request) as answer:
        return json.load(answer)


def test_the_command_shows_the_runs_of_an_output_folder(output_dir, server):
    tracker = MlflowTracker(output_dir, run="shown", experiment="shown")
    tracker.start_sweep("sweep", {})
    tracker.close()

    experiments = ask(server, "experiments/search", {"max_results": 10})["experiments"]
    shown = next(each for each in experiments if each["name"] == "shown")
    runs = ask(server, "runs/search", {"experiment_ids": [shown["experiment_id"]]})["runs"]
    assert [run["info"]["run_name"] for run in runs] == ["sweep"]


def test_runs_and_artifacts_reach_a_server(tmp_path, server):
    check_uri(server)
    artifact = tmp_path / "matrix.json"
    artifact.write_text("{}")
    tracker = MlflowTracker(tmp_path / "out", run="remote", experiment="remote", uri=server)
    tracker.start_sweep("sweep", {})
    tracker.start_trial("t0", {"seed": 0}, "er-lora")
    tracker.log("t0", {"train/loss": 0.5}, step=0)
    tracker.artifact("t0", artifact)
    tracker.finish_trial("t0", "finished")
    tracker.finish_sweep("finished")
    tracker.close()

    client = MlflowClient(server)
    experiment_id = client.get_experiment_by_name("remote").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([experiment_id])}
    trial, sweep = runs["er-lora"], runs["sweep"]
    assert trial.data.tags["mlflow.parentRunId"] == sweep.info.run_id
    assert trial.data.metrics == {"train/loss": 0.5}
    assert [each.path for each in client.list_artifacts(trial.info.run_id)] == ["matrix.json"]
    assert not (tmp_path / "out" / "mlflow.db").exists()


def test_the_command_is_short_and_safe_to_paste(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    *program, ui, _, _, option, uri = shlex.split(ui_command(Path("runs/my job")))

    assert Path(program[0]).name == "mlflow"
    assert (ui, option) == ("ui", "--backend-store-uri")
    assert uri == "sqlite:///runs/my job/mlflow.db"
    assert ui_page(Path("runs/my job")).startswith("http://127.0.0.1:5000/#/experiments/1/runs?")


@pytest.mark.parametrize("name", ["100%", "a%20b", "why?", "a#b", "zwei Wörter", "a%3Fb?c#d"])
def test_runs_and_artifacts_are_in_the_output_folder_whatever_it_is_called(tmp_path, name):
    artifact = tmp_path / "matrix.json"
    artifact.write_text("{}")
    output_dir = tmp_path / name
    tracker = MlflowTracker(output_dir, run="named", experiment="named")
    tracker.start_sweep("sweep", {})
    tracker.artifact(None, artifact)
    tracker.close()

    assert (output_dir / "mlflow.db").stat().st_size > 0
    assert len(list((output_dir / "mlartifacts").rglob("matrix.json"))) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "matrix.json"])

    again = MlflowTracker(output_dir, run="named", experiment="named")
    again.start_sweep("sweep", {})
    again.close()
    client = MlflowClient(shlex.split(ui_command(output_dir))[-1])
    (run,) = client.search_runs([client.get_experiment_by_name("named").experiment_id])
    assert [each.path for each in client.list_artifacts(run.info.run_id)] == ["matrix.json"]


def test_the_page_of_a_server_is_that_of_the_experiment(output_dir, server):
    tracker = MlflowTracker(output_dir, run="linked", experiment="my tickets & more")
    tracker.start_sweep("sweep", {})
    tracker.close()
    name = "my tickets & more"
    number = MlflowClient(server).get_experiment_by_name(name).experiment_id
    page = ui_page(server, name)
    assert page.startswith(f"{server}/#/experiments/{number}/runs?workflowType=machine_learning")
    assert ui_page(server, "of another name") == ui_page(server)


def test_the_command_for_a_server_opens_its_page():
    command = shlex.split(ui_command("https://mlflow.internal/"))

    assert command[1:] == ["-m", "webbrowser", ui_page("https://mlflow.internal/")]
    assert Path(command[0]).name.startswith("python")
    assert ui_page("https://mlflow.internal/").startswith("https://mlflow.internal/#/experiments")


def test_the_program_is_named_as_the_shell_finds_it(tmp_path, monkeypatch):
    programs = Path(sys.executable).parent
    monkeypatch.setenv("PATH", str(programs))
    assert ui_command(tmp_path).startswith("mlflow ui ")

    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(programs.parent)
    assert ui_command(tmp_path).startswith(f"{programs.name}/mlflow ui ")


def test_an_address_where_nobody_answers_is_an_input_error():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InputError, match=f"tracking.mlflow_uri: nobody answers at '{uri}'"):
            check_uri(uri)


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "mlruns", "htp://127.0.0.1:5000"])
def test_a_kind_of_address_that_mlflow_cannot_write_to_is_an_input_error(uri):
    with pytest.raises(InputError, match="neither an MLflow server nor a database"):
        check_uri(uri)


@pytest.mark.parametrize("uri", ["sqlite:///runs/mlflow.db", "postgresql+psycopg://me@db/mlflow"])
def test_a_database_is_taken_at_its_word(uri):
    check_uri(uri)
