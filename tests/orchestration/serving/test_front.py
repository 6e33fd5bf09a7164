"""What HTTP says without Ray: who is let in, and what happens when replicas are slow or fail."""

import asyncio
import json
from dataclasses import replace

import pytest
from aiohttp.test_utils import TestClient, TestServer

from lamina.bundles import Prediction, open_bundle
from lamina.orchestration.serving.front import Front
from lamina.orchestration.serving.settings import ServingSettings
from served_bundles import write_served

SAID = Prediction("door", 0.5, (("door", 0.5),), None)


@pytest.fixture(scope="module")
def facts(tiny_bert, tiny_bert_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("front")
    return open_bundle(write_served("ncm", folder, tiny_bert, tiny_bert_folder)).facts


async def answers(questions):
    return [[SAID] * len(each.values) for each in questions]


def asked(facts, talk, *, send=answers, token=None, **settings):
    """What `talk` returns, given a client."""

    async def is_healthy():
        return False

    async def run():
        given = ServingSettings(**settings)
        front = Front({"ncm": facts, "other": facts}, given, token, send, is_healthy)
        async with TestClient(TestServer(front.application())) as client:
            return await talk(client)

    return asyncio.run(run())


async def post(client, number=1, **headers):
    body = {"inputs": ["x"] * number, "bundle": "ncm"}
    response = await client.post("/v1/predict", json=body, headers=headers)
    return response.status, await response.json(), response.headers


def test_without_a_token_only_this_machine_s_own_names_are_answered(facts):
    def status(host):
        return asked(facts, lambda client: post(client, Host=host))[0]

    for host in ("localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "[::1]"):
        assert status(host) == 200
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "[", ""):
        assert status(host) == 403


def test_with_a_token_any_name_of_the_machine_is_answered(facts):
    talk = lambda client: post(client, Host="a.b", Authorization="Bearer secret")  # noqa: E731
    assert asked(facts, talk, token="secret")[0] == 200
    assert asked(facts, talk, token="another")[0] == 401


def test_too_many_that_wait_are_told_to_come_again(facts):
    async def run(client):
        return await asyncio.gather(*(post(client, 4) for _ in range(20)))

    async def slow(questions):
        await asyncio.sleep(0.05)
        return await answers(questions)

    found = asked(facts, run, send=slow, batch_rows=4, max_waiting_rows=8)
    statuses = [status for status, *_ in found]
    assert set(statuses) == {200, 503}
    _, body, headers = found[statuses.index(503)]
    assert headers["Retry-After"] == "1"
    assert body["error"]["key"] == "inputs"


def test_an_answer_that_does_not_come_is_given_up(facts):
    async def never(questions):
        await asyncio.sleep(60)

    status, body, _ = asked(facts, post, send=never, seconds=0.05)
    assert status == 504
    assert "within 0.05 seconds" in body["error"]["message"]


def test_an_error_of_a_replica_is_not_told_to_clients(facts, capsys):
    async def fails(questions):
        raise ZeroDivisionError("where the weights are")

    async def failed(questions):
        return [RuntimeError("where the weights are")] * len(questions)

    for send in (fails, failed):
        status, body, _ = asked(facts, post, send=send)
        assert status == 500
        assert "weights" not in json.dumps(body)
        assert "where the weights are" in capsys.readouterr().err


def test_a_server_that_is_not_well_says_so(facts):
    async def run(client):
        response = await client.get("/healthz")
        return response.status

    assert asked(facts, run) == 503


def test_several_labels_are_said_where_they_are_asked_for(facts):
    top = (("door", 0.5), ("light", 0.25))

    async def two(questions):
        return [[replace(SAID, top=top, task="task 0")] * len(each.values) for each in questions]

    async def run(client):
        body = {"inputs": ["x"], "bundle": "ncm", "top_k": 2}
        response = await client.post("/v1/predict", json=body)
        return (await response.json())["predictions"][0]

    found = asked(facts, run, send=two)
    labels = [{"label": "door", "score": 0.5}, {"label": "light", "score": 0.25}]
    assert found == {"label": "door", "score": 0.5, "task": "task 0", "top": labels}
