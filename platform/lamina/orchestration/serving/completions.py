"""OpenAI's completions: requests read as questions, and answers and errors as its clients read
them."""

import time
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from lamina.bundles import Generation
from lamina.bundles.facts import Facts
from lamina.bundles.generation import ROLES, Prompt
from lamina.config.fields import unknown_key
from lamina.config.reading import shown
from lamina.orchestration.serving.question import (
    Question,
    RefusedError,
    bundle_of,
    mapping_of,
    task_of,
    text_of,
)
from lamina.orchestration.serving.settings import ServingSettings

TEXT = "/v1/completions"
CHAT = "/v1/chat/completions"
MODELS = "/v1/models"
PATHS = (TEXT, CHAT, MODELS)
_LENGTHS = ("max_tokens", "max_completion_tokens")
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "temperature": (0,),
    "n": (1,),
    "best_of": (1,),
    "stream": (False,),
    "echo": (False,),
    "top_p": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "stop": (),
    "suffix": (),
    "logprobs": (False,),
}
"""Parameters of a request that may only have these values, because the likeliest token is always
the next; null is always allowed."""
_OF_NO_ACCOUNT = ("user", "seed")
"""Parameters that clients may send and that change nothing, because no token is drawn."""


def read_completion(
    body: bytes, bundles: Mapping[str, Facts], settings: ServingSettings, *, is_chat: bool
) -> Question:
    """Raises RefusedError where the body asks for what cannot be had."""
    given = mapping_of(body)
    what = "messages" if is_chat else "prompt"
    known = ("model", what, *_LENGTHS, "task", *_ONLY, *_OF_NO_ACCOUNT)
    for key, value in given.items():
        if key not in known:
            raise RefusedError(400, key, unknown_key(key, known))
        if key in _ONLY and value is not None and value not in _ONLY[key]:
            allowed = " or ".join(["null", *(shown(each) for each in _ONLY[key])])
            raise RefusedError(
                400, key, f"{key}: {shown(value)} is not allowed (allowed: {allowed})"
            )
    name = bundle_of(given, bundles, "model")
    if bundles[name].answers == "classes":
        raise RefusedError(
            400, "model", f"model: {name!r} answers with classes (allowed: POST /v1/predict)"
        )
    prompts = _messages(given, settings) if is_chat else _prompts(given, settings)
    max_new_tokens = _max_new_tokens(given, settings)
    return Question(name, prompts, task_of(given, bundles[name]), max_new_tokens=max_new_tokens)


def _prompts(given: Mapping[str, Any], settings: ServingSettings) -> Sequence[Prompt]:
    prompt = given.get("prompt")
    if isinstance(prompt, str):
        return [text_of(prompt, "prompt", settings)]
    most = settings.max_rows
    allowed = f"allowed: a text, or a list of 1 to {most} texts"
    if not isinstance(prompt, list) or not prompt:
        raise RefusedError(400, "prompt", f"prompt: {shown(prompt)} is not allowed ({allowed})")
    if len(prompt) > most:
        raise RefusedError(413, "prompt", f"prompt: {len(prompt)} were given ({allowed})")
    return [text_of(each, f"prompt[{place}]", settings) for place, each in enumerate(prompt)]


def _messages(given: Mapping[str, Any], settings: ServingSettings) -> Sequence[Prompt]:
    """The one conversation of a request."""
    messages, most = given.get("messages"), settings.max_rows
    allowed = f"allowed: a list of 1 to {most} messages of role and content"
    if not isinstance(messages, list) or not 0 < len(messages) <= most:
        raise RefusedError(
            400, "messages", f"messages: {shown(messages)} is not allowed ({allowed})"
        )
    for place, each in enumerate(messages):
        key = f"messages[{place}]"
        if not isinstance(each, dict) or set(each) != {"role", "content"}:
            raise RefusedError(400, key, f"{key}: {shown(each)} is no message ({allowed})")
        if each["role"] not in ROLES:
            raise RefusedError(
                400,
                f"{key}.role",
                f"{key}.role: {shown(each['role'])} is unknown (allowed: {', '.join(ROLES)})",
            )
        text_of(each["content"], f"{key}.content", settings)
    return [messages]


def _max_new_tokens(given: Mapping[str, Any], settings: ServingSettings) -> int | None:
    """How many tokens a request allows; None where it does not say."""
    for key in _LENGTHS:
        number = given.get(key)
        if number is None:
            continue
        if type(number) is not int or not 1 <= number <= settings.max_new_tokens:
            raise RefusedError(
                400,
                key,
                f"{key}: {shown(number)} is not allowed (allowed: 1 to {settings.max_new_tokens})",
            )
        return number
    return None


def completion(name: str, said: Sequence[Generation], *, is_chat: bool) -> dict[str, Any]:
    """The answer to a request. Beside what OpenAI has, a choice says the `task` whose module
    answered, where the strategy decides for one."""
    read, new = sum(each.num_read for each in said), sum(each.num_tokens for each in said)
    return {
        "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid4().hex}",
        "object": "chat.completion" if is_chat else "text_completion",
        "created": int(time.time()),
        "model": name,
        "choices": [_choice(place, each, is_chat) for place, each in enumerate(said)],
        "usage": {"prompt_tokens": read, "completion_tokens": new, "total_tokens": read + new},
    }


def _choice(place: int, said: Generation, is_chat: bool) -> dict[str, Any]:
    text: dict[str, Any] = {"text": said.text}
    if is_chat:
        text = {"message": {"role": "assistant", "content": said.text}}
    task = {} if said.task is None else {"task": said.task}
    reason = "stop" if said.is_whole else "length"
    return {"index": place, **text, "logprobs": None, "finish_reason": reason, **task}


def models(bundles: Mapping[str, Facts]) -> dict[str, Any]:
    """The bundles that answer with texts."""
    names = [name for name, facts in bundles.items() if facts.answers == "tokens"]
    found = [{"id": each, "object": "model", "created": 0, "owned_by": "lamina"} for each in names]
    return {"object": "list", "data": found}


def error_of(status: int, key: str, message: str) -> dict[str, Any]:
    """An error in OpenAI's format."""
    codes = {401: "invalid_api_key", 404: "model_not_found", 413: "too_large"}
    kind = "server_error" if status >= 500 else "invalid_request_error"
    found = {"message": message, "type": kind, "param": key, "code": codes.get(status)}
    return {"error": found}
