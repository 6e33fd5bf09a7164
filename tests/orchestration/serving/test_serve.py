"""`lamina serve` as a person starts it: a process of its own, on Ray Serve, asked over HTTP."""

import base64
import csv
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests
from click.testing import CliRunner
from PIL import Image

from bundle_cases import new_learner
from lamina.bundles import write_bundle
from lamina.cli import main
from language_models import write_model
from served_bundles import TEXTS, write_served, write_speaking

pytestmark = pytest.mark.ray

STRATEGIES = ["er", "ranpac", "s_prompts", "l2p", "simplecil"]
TOKEN = "a-token-of-this-test-alone"
SECONDS = 120


@dataclass
class Server:
    """One that runs."""

    address: str
    folder: Path
    process: subprocess.Popen

    def ask(self, body, path="/v1/predict", **headers):
        """POST it: the response."""
        json_ = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        address = f"{self.address}{path}"
        return requests.post(address, content, headers=json_ | headers, timeout=SECONDS)

    def get(self, path, **headers):
        """The response."""
        given = {"Authorization": f"Bearer {TOKEN}"} | headers
        return requests.get(self.address + path, headers=given, timeout=SECONDS)


@contextmanager
def started(folder, *words):
    """`lamina serve` from when it answers until it has stopped, which leaves no process."""
    command = [sys.executable, "-m", "lamina.cli", "serve", *words, "--port", "0"]
    own = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    log = folder / "log"
    with (
        log.open("w") as output,
        subprocess.Popen(command, stdout=output, stderr=output, env=own, cwd=folder) as process,
    ):
        try:
            end = time.monotonic() + SECONDS
            while (found := re.search(r"at (http\S+?)[,;]", log.read_text())) is None:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.1)
            yield Server(found[1], folder, process)
            own = psutil.Process(process.pid)
            family = [own, *own.children(recursive=True)]
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS) == 0
            _, alive = psutil.wait_procs(family, timeout=SECONDS)
            assert alive == []
            assert log.read_text().splitlines()[-1] == "stopped"
            assert "Traceback" not in log.read_text()
        finally:
            process.kill()


@pytest.fixture(scope="module")
def server(tiny_bert, tiny_bert_folder, tiny_vit, tiny_vit_folder, tmp_path_factory):
    """With bundles of several strategies, one that is told tasks, one of images, and a token."""
    folder = tmp_path_factory.mktemp("serve")
    told = {"scenario": {"kind": "task_incremental"}, "name": "told"}
    for name in STRATEGIES:
        write_served(name, folder, tiny_bert, tiny_bert_folder)
    write_served("er", folder, tiny_bert, tiny_bert_folder, **told)
    write_images(folder, tiny_vit, tiny_vit_folder)
    write_speaking("finetune", folder / "calls", write_model("llama", folder / "llama"))
    (folder / "token").write_text(TOKEN + "\n")
    named = [f"pictures={folder}/images", f"calls={folder}/calls"]
    bundles = [*(str(folder / name) for name in [*STRATEGIES, "told"]), *named]
    limits = ("--max-rows", "8", "--max-characters", "200", "--max-body-bytes", "60000")
    words = (*bundles, "--token-file", str(folder / "token"), *limits, "--max-pixels", "10000")
    with started(folder, *words) as running:
        yield running


def write_images(folder, backbone, where):
    """Pictures of two classes, and a bundle that has learned them."""
    draws = np.random.default_rng(0)
    for label in ("dark", "light"):
        (folder / "pictures" / label).mkdir(parents=True)
        for number in range(12):
            pixels = draws.integers(0, 90, (32, 32, 3)) + (150 if label == "light" else 0)
            path = folder / "pictures" / label / f"{number}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    mapping = {
        "name": "images",
        "stream": {
            "name": "huggingface",
            "path": str(folder / "pictures"),
            "image_column": "image",
        },
        "scenario": {"kind": "class_incremental", "num_tasks": 1},
        "backbone": {"name": str(where)},
        "adapter": None,
        "strategy": {"name": "ncm"},
    }
    job, learner = new_learner(mapping, backbone)
    list(learner.learn())
    write_bundle(job, learner, folder / "images", name="images", trial="images-0")


def predicted(bundle, file, *words):
    """What `lamina predict` says: label, scores and task of each row."""
    words = [str(bundle), str(file), *words, "--top-k", "2", "--format", "jsonl"]
    done = CliRunner().invoke(main, ["predict", *words])
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one["label"], one.get("task")) == (other["label"], other.get("task"))
        assert [each["label"] for each in one["top"]] == [each["label"] for each in other["top"]]
        scores = [each["score"] for each in other["top"]]
        assert [each["score"] for each in one["top"]] == pytest.approx(scores, abs=1e-5)


@pytest.fixture(scope="module")
def asked_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("asked") / "texts.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text"], *([text] for text in TEXTS)])
    return path


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_bundle_answers_as_lamina_predict_does(name, server, asked_file):
    found = server.ask({"inputs": TEXTS, "bundle": name, "top_k": 2})
    assert found.status_code == 200
    assert found.json()["bundle"] == name
    assert_same(found.json()["predictions"], predicted(server.folder / name, asked_file))


def test_a_task_is_told_where_predictions_know_theirs(server, asked_file):
    body = {"inputs": TEXTS, "bundle": "told", "task": "task 1", "top_k": 2}
    found = server.ask(body).json()["predictions"]
    assert {each["label"] for each in found} <= {"song", "timer"}
    assert_same(found, predicted(server.folder / "told", asked_file, "--task", "task 1"))


def test_images_are_sent_as_base64(server):
    files = sorted((server.folder / "pictures").rglob("*.png"))
    inputs = [base64.b64encode(path.read_bytes()).decode() for path in files[::4]]
    found = server.ask({"inputs": inputs, "bundle": "pictures", "top_k": 2})
    assert found.status_code == 200, found.text
    expected = predicted(server.folder / "images", server.folder / "pictures")
    assert_same(found.json()["predictions"], expected[::4])


def test_a_language_model_answers_as_lamina_generate_does(server):
    body = {"model": "calls", "prompt": TEXTS, "max_tokens": 6}
    found = server.ask(body, "/v1/completions")
    assert found.status_code == 200, found.text
    words = ["generate", str(server.folder / "calls"), *TEXTS, "--max-new-tokens", "6"]
    done = CliRunner().invoke(main, [*words, "--format", "jsonl"])
    expected = [json.loads(line)["text"] for line in done.stdout.splitlines()]
    assert [each["text"] for each in found.json()["choices"]] == expected
    assert [each["id"] for each in server.get("/v1/models").json()["data"]] == ["calls"]


def test_many_clients_of_many_bundles_each_get_their_own_answer(server):
    expected = {
        name: server.ask({"inputs": TEXTS, "bundle": name}).json()["predictions"]
        for name in STRATEGIES
    }

    def client(number):
        name, start = STRATEGIES[number % len(STRATEGIES)], number % len(TEXTS)
        body = {"inputs": TEXTS[start:], "bundle": name}
        return name, start, server.ask(body)

    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(client, range(120)))
    for name, start, found in answers:
        assert found.status_code == 200, found.text
        for one, other in zip(found.json()["predictions"], expected[name][start:], strict=True):
            assert one["label"] == other["label"]
            assert one["score"] == pytest.approx(other["score"], abs=1e-5)
    assert 'lamina_batch_bundles_bucket{le="1.0"}' in server.get("/metrics").text


def picture(width, height):
    file = io.BytesIO()
    Image.new("L", (width, height)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


WRONG = {
    "no_json": (b"{", 400, "body", "is no JSON"),
    "deep": (b"[" * 9000, 400, "body", "is no JSON"),
    "no_object": ([], 400, "body", "[] is no object"),
    "unknown_key": ({"input": ["x"]}, 400, "input", "did you mean 'inputs'?"),
    "no_inputs": ({"bundle": "er"}, 400, "inputs", "missing"),
    "one_text": ({"inputs": "x", "bundle": "er"}, 400, "inputs", "'x' is not allowed"),
    "none": ({"inputs": [], "bundle": "er"}, 400, "inputs", "1 to 8 texts"),
    "many": ({"inputs": ["x"] * 9, "bundle": "er"}, 413, "inputs", "9 were given"),
    "number": ({"inputs": ["x", 3], "bundle": "er"}, 400, "inputs[1]", "3 is no text"),
    "blank": ({"inputs": ["x", " "], "bundle": "er"}, 400, "inputs[1]", "is empty"),
    "long": ({"inputs": ["x" * 201], "bundle": "er"}, 413, "inputs[0]", "has 201 characters"),
    "half": ({"inputs": ["\ud83d"], "bundle": "er"}, 400, "inputs[0]", "half a character"),
    "large": (b" " * 60_001, 413, "body", "60,000 bytes"),
    "no_bundle": ({"inputs": ["x"]}, 400, "bundle", "several are served"),
    "other_bundle": ({"inputs": ["x"], "bundle": "ranpack"}, 404, "bundle", "'ranpac'?"),
    "strange_bundle": ({"inputs": ["x"], "bundle": 3}, 400, "bundle", "3 is no text"),
    "top_k": ({"inputs": ["x"], "bundle": "er", "top_k": 5}, 400, "top_k", "1 to 4"),
    "true": ({"inputs": ["x"], "bundle": "er", "top_k": True}, 400, "top_k", "true"),
    "no_task": ({"inputs": ["x"], "bundle": "told"}, 400, "task", "missing"),
    "other_task": ({"inputs": ["x"], "bundle": "told", "task": "9"}, 400, "task", "'9'"),
    "idle_task": ({"inputs": ["x"], "bundle": "er", "task": "task 0"}, 400, "task", "no use"),
    "no_base64": ({"inputs": ["?"], "bundle": "pictures"}, 400, "inputs[0]", "no base64"),
    "no_image": (
        {"inputs": ["YWJj"], "bundle": "pictures"},
        400,
        "inputs",
        "inputs[0] is no image",
    ),
    "pixels": (
        {"inputs": [picture(9, 9), picture(101, 100)], "bundle": "pictures"},
        400,
        "inputs",
        "101 x 100 pixels; allowed are 10,000",
    ),
}


@pytest.mark.parametrize("case", list(WRONG))
def test_what_cannot_be_answered_is_said_by_key(case, server):
    body, status, key, said = WRONG[case]
    found = server.ask(body)
    assert found.status_code == status
    assert found.json()["error"]["key"] == key
    assert said in found.json()["error"]["message"]
    assert found.json()["error"]["message"].startswith(key)


def test_other_paths_methods_and_contents_are_refused(server):
    assert server.get("/v1/predict").status_code == 405
    lost = server.get("/v1/nothing")
    assert lost.status_code == 404
    assert "POST /v1/predict" in lost.json()["error"]["message"]
    body = {"inputs": ["x"], "bundle": "er"}
    assert server.ask(body, **{"Content-Type": "text/plain"}).status_code == 415


def test_nobody_is_let_in_without_the_token(server):
    body = {"inputs": ["x"], "bundle": "er"}
    for given in ("", "Bearer", f"Bearer {TOKEN}x", TOKEN, f"Basic {TOKEN}", "Bearer \xff"):
        found = server.ask(body, Authorization=given)
        assert found.status_code == 401
        assert found.headers["WWW-Authenticate"] == "Bearer"
        assert server.get("/v1/bundles", Authorization=given).status_code == 401
        assert server.get("/metrics", Authorization=given).status_code == 401
    assert server.get("/healthz", Authorization="").json() == {"status": "ok"}


def test_bundles_say_what_they_are(server):
    found = {each["name"]: each for each in server.get("/v1/bundles").json()["bundles"]}
    assert set(found) == {*STRATEGIES, "told", "pictures", "calls"}
    assert found["er"]["classes"] == ["door", "light", "song", "timer"]
    assert [each["name"] for each in found["er"]["tasks"]] == ["task 0", "task 1"]
    assert found["told"]["needs_task"] is True
    assert found["er"]["metrics"]["test/average_accuracy"] >= 0
    assert server.ask({"inputs": ["x"], "bundle": "er-0"}).json()["bundle"] == "er"


def test_what_is_counted_is_counted_by_bundle(server):
    def rows():
        text = server.get("/metrics").text
        return float(re.search(r'lamina_rows_total{bundle="ranpac"} (\S+)', text)[1])

    before = rows()
    server.ask({"inputs": TEXTS, "bundle": "ranpac"})
    assert rows() == before + len(TEXTS)
    text = server.get("/metrics").text
    assert 'lamina_requests_total{bundle="",status="400"}' in text
    assert 'lamina_request_seconds_bucket{bundle="ranpac",le="0.1"}' in text
    assert 'lamina_batch_rows_sum{bundle="ranpac"}' in text


def test_no_secret_is_in_a_command_line_an_environment_or_a_log(server):
    own = psutil.Process(server.process.pid)
    for each in [own, *own.children(recursive=True)]:
        assert TOKEN not in " ".join(each.cmdline())
        assert TOKEN not in " ".join(each.environ().values())
    assert TOKEN not in (server.folder / "log").read_text()


def test_a_replica_that_dies_is_replaced_and_what_it_was_asked_is_answered(server):
    own = psutil.Process(server.process.pid)
    (replica,) = [each for each in own.children(recursive=True) if "Replica" in each.cmdline()[0]]
    replica.kill()
    found = server.ask({"inputs": TEXTS[:2], "bundle": "er"})
    assert found.status_code == 200, found.text
    assert len(found.json()["predictions"]) == 2


def test_what_cannot_be_served_is_said_in_one_line_before_ray_starts(server, tmp_path):
    bundle = shutil.copytree(server.folder / "simplecil", tmp_path / "damaged")
    content = bytearray((bundle / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (bundle / "model.safetensors").write_bytes(content)
    good, short = str(server.folder / "simplecil"), tmp_path / "short"
    short.write_text("short")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for words, said in (
            ((str(bundle),), "is damaged"),
            ((str(tmp_path),), "holds no bundle"),
            ((good, good), "2 bundles are called 'simplecil'"),
            ((good, "--host", "0.0.0.0"), "needs a token"),
            ((good, "--host", "0.0.0.0", "--token-file", str(short)), "holds no token"),
            ((good, "--token-file", str(tmp_path / "none")), "cannot be read"),
            ((good, "--port", port), "cannot listen"),
        ):
            done = CliRunner().invoke(main, ["serve", *words])
            assert done.exit_code == 2, words
            assert said in done.stderr
            assert len(done.stderr.splitlines()) == 1
