"""Language models answer over HTTP as OpenAI's clients ask, and as `generate` does."""

import asyncio

import pytest
from aiohttp.test_utils import TestClient, TestServer

from lamina.bundles import load_predictor, open_bundle
from lamina.orchestration.serving.front import Front
from lamina.orchestration.serving.question import Question
from lamina.orchestration.serving.resident_bundles import ResidentBundles
from lamina.orchestration.serving.settings import ServingSettings
from language_models import write_model
from served_bundles import write_served, write_speaking

PROMPTS = ["turn it on in the kitchen", "attic", "I am in the cellar now, please do something"]
SETTINGS = ServingSettings(batch_rows=4, max_rows=5, max_new_tokens=8, max_characters=100)


@pytest.fixture(scope="module")
def bundles(tiny_bert, tiny_bert_folder, tmp_path_factory):
    """Two strategies of one language model, one of which routes, and one that knows classes."""
    folder = tmp_path_factory.mktemp("speaking")
    model = write_model("llama", folder / "model")
    for name in ("finetune", "epi"):
        write_speaking(name, folder / name, model)
    write_served("ncm", folder, tiny_bert, tiny_bert_folder)
    return {name: open_bundle(folder / name) for name in ("finetune", "epi", "ncm")}


@pytest.fixture(scope="module")
def resident(bundles):
    return ResidentBundles(bundles, SETTINGS, "cpu")


def asked(bundles, resident, *requests, token=None):
    """Status and body of each (path, body) that is asked at the same time."""

    async def send(questions):
        return resident.answer(questions)

    async def is_healthy():
        return True

    async def ask(client, path, body):
        method = "GET" if body is None else "POST"
        response = await client.request(method, path, json=body)
        return response.status, await response.json()

    async def run():
        facts = {name: each.facts for name, each in bundles.items()}
        front = Front(facts, SETTINGS, token, send, is_healthy)
        async with TestClient(TestServer(front.application())) as client:
            return await asyncio.gather(*(ask(client, *each) for each in requests))

    return asyncio.run(run())


def test_bundles_that_are_asked_together_say_what_each_generates_alone(bundles, resident):
    bodies = [
        {"model": "finetune", "prompt": PROMPTS, "max_tokens": 6, "temperature": 0},
        {"model": "epi", "prompt": PROMPTS, "max_tokens": 6},
        {"model": "finetune-0", "prompt": PROMPTS[1], "max_tokens": 3, "user": "somebody"},
    ]
    found = asked(bundles, resident, *(("/v1/completions", body) for body in bodies))
    for body, (status, answer) in zip(bodies, found, strict=True):
        assert status == 200, answer
        name = body["model"].removesuffix("-0")
        prompts = [body["prompt"]] if isinstance(body["prompt"], str) else body["prompt"]
        expected = load_predictor(bundles[name]).generate(
            prompts, max_new_tokens=body["max_tokens"]
        )
        assert [each["text"] for each in answer["choices"]] == [each.text for each in expected]
        assert [each.get("task") for each in answer["choices"]] == [each.task for each in expected]
        reasons = ["stop" if each.is_whole else "length" for each in expected]
        assert [each["finish_reason"] for each in answer["choices"]] == reasons
        assert answer["usage"]["completion_tokens"] == sum(each.num_tokens for each in expected)
        assert answer["usage"]["prompt_tokens"] == sum(each.num_read for each in expected)
        assert (answer["object"], answer["model"]) == ("text_completion", name)


def test_adapters_of_one_model_decode_in_one_call(bundles, resident, monkeypatch):
    backbone = resident._predictors["finetune"].model.backbone
    sizes = []
    run_together = type(backbone).run_together
    monkeypatch.setattr(
        type(backbone),
        "run_together",
        lambda self, calls: (
            sizes.append([each.max_new_tokens for each in calls]) or run_together(self, calls)
        ),
    )
    for name in ("finetune", "other"):
        resident._predictors[name] = resident._predictors["finetune"]
        resident._keys[name] = resident._keys["finetune"]
    wanted = [("finetune", 5), ("other", 3), ("finetune", 2)]
    found = resident.answer(
        [Question(name, PROMPTS[:1], None, max_new_tokens=most) for name, most in wanted]
    )
    predictor = resident._predictors["finetune"]
    assert found == [predictor.generate(PROMPTS[:1], max_new_tokens=most) for _, most in wanted]
    assert sizes == [[5, 3, 2]]


@pytest.mark.parametrize(("own", "most"), [(5, 5), (64, SETTINGS.max_new_tokens)])
def test_a_request_that_does_not_say_gets_as_many_tokens_as_the_bundle_s_job_allows(
    bundles, resident, monkeypatch, own, most
):
    predictor = resident._predictors["finetune"]
    monkeypatch.setattr(type(predictor), "max_new_tokens", own)
    body = {"model": "finetune", "prompt": PROMPTS}
    ((status, answer),) = asked(bundles, resident, ("/v1/completions", body))
    assert status == 200, answer
    expected = predictor.generate(PROMPTS, max_new_tokens=most)
    assert [each["text"] for each in answer["choices"]] == [each.text for each in expected]
    assert answer["usage"]["completion_tokens"] == sum(each.num_tokens for each in expected)


def test_a_chat_is_one_conversation(bundles, resident):
    body = {
        "model": "finetune",
        "messages": [{"role": "user", "content": PROMPTS[0]}],
        "max_completion_tokens": 5,
    }
    ((status, answer),) = asked(bundles, resident, ("/v1/chat/completions", body))
    assert status == 200, answer
    (expected,) = load_predictor(bundles["finetune"]).generate(PROMPTS[:1], max_new_tokens=5)
    message = {"role": "assistant", "content": expected.text}
    assert answer["choices"][0]["message"] == message
    assert answer["object"] == "chat.completion"


def test_models_are_the_bundles_that_answer_with_texts(bundles, resident):
    ((status, answer),) = asked(bundles, resident, ("/v1/models", None))
    assert status == 200
    assert [each["id"] for each in answer["data"]] == ["finetune", "epi"]


def test_what_cannot_be_had_is_said_in_openai_s_shape(bundles, resident):
    text, chat = "/v1/completions", "/v1/chat/completions"
    known = {"model": "epi", "prompt": "on"}
    user = {"role": "user", "content": "on"}
    cases = [
        (text, {**known, "model": "gpt-4"}, 404, "model", "gpt-4"),
        (text, {"prompt": "on"}, 400, "model", "several are served"),
        (text, {**known, "model": "ncm"}, 400, "model", "POST /v1/predict"),
        (text, {"model": "epi"}, 400, "prompt", "null is not allowed"),
        (text, {**known, "prompt": " "}, 400, "prompt", "is empty"),
        (text, {**known, "prompt": "on" * 100}, 413, "prompt", "has 200 characters"),
        (text, {**known, "prompt": ["on"] * 6}, 413, "prompt", "6 were given"),
        (text, {**known, "prompt": ["on", 3]}, 400, "prompt[1]", "is no text"),
        (text, {**known, "max_tokens": 9}, 400, "max_tokens", "allowed: 1 to 8"),
        (text, {**known, "temperature": 0.7}, 400, "temperature", "allowed: null or 0"),
        (text, {**known, "stream": True}, 400, "stream", "allowed: null or false"),
        (text, {**known, "max_token": 3}, 400, "max_token", "did you mean 'max_tokens'"),
        (text, {**known, "task": "lights"}, 400, "task", "know no task"),
        (text, [], 400, "body", "is no object"),
        (chat, {"model": "epi", "messages": []}, 400, "messages", "is not allowed"),
        (chat, {"model": "epi", "messages": ["on"]}, 400, "messages[0]", "is no message"),
        (chat, {"model": "epi", "messages": [{**user, "role": "x"}]}, 400, "messages[0].role", ""),
        (chat, {"model": "epi", "messages": [user, user]}, 400, "inputs", "prompts of one turn"),
        ("/v1/predict", {"bundle": "epi", "inputs": ["on"]}, 400, None, "/v1/completions"),
    ]
    found = asked(bundles, resident, *((path, body) for path, body, *_ in cases))
    for (_, body, status, key, words), (code, answer) in zip(cases, found, strict=True):
        assert code == status, (body, answer)
        error = answer["error"]
        assert words in error["message"]
        if key is not None:
            assert (error["param"], error["type"]) == (key, "invalid_request_error")
    ((code, answer),) = asked(bundles, resident, (text, known), token="a-token")
    assert (code, answer["error"]["code"]) == (401, "invalid_api_key")
