"""A question: the JSON of a request, checked before anything is computed."""

import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lamina.bundles.facts import Facts
from lamina.config.fields import unknown_key
from lamina.config.reading import shown
from lamina.orchestration.serving.settings import ServingSettings
from lamina.registry import InputError, unknown

_KEYS = ("inputs", "bundle", "task", "top_k")


class RefusedError(Exception):
    """A request that gets no answer."""

    def __init__(self, status: int, key: str, message: str) -> None:
        """`status` is HTTP's; `key` what is wrong, and `message` the line for a person."""
        super().__init__(status, key, message)
        self.status = status
        self.key = key
        self.message = message


@dataclass(frozen=True)
class Question:
    """The inputs of a request."""

    bundle: str
    """The name that it is served under."""
    values: Sequence[Any]
    """N texts, or N encoded images as bytes; or N prompts (texts, or messages)."""
    task: str | None
    """The task of all inputs, where predictions may know it."""
    top_k: int = 1
    """How many classes are wanted for each."""
    max_new_tokens: int | None = None
    """How many tokens may be generated behind each prompt; None: as many as its job says."""


def read_question(body: bytes, bundles: Mapping[str, Facts], settings: ServingSettings) -> Question:
    """Raises RefusedError where the body is no question that one of the bundles can be asked."""
    given = mapping_of(body)
    for key in given:
        if key not in _KEYS:
            raise RefusedError(400, key, unknown_key(key, _KEYS))
    name = bundle_of(given, bundles, "bundle")
    facts = bundles[name]
    if facts.answers == "tokens":
        raise RefusedError(
            400, "bundle", f"bundle: {name!r} answers with texts (allowed: POST /v1/completions)"
        )
    return Question(
        name, _inputs(given, facts, settings), task_of(given, facts), _top_k(given, facts)
    )


def mapping_of(body: bytes) -> dict[str, Any]:
    """A request's JSON. Raises RefusedError where it is no object."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise RefusedError(
            400, "body", f"body: is no JSON: {reason} (allowed: an object)"
        ) from None
    if not isinstance(given, dict):
        raise RefusedError(400, "body", f"body: {shown(given)} is no object (allowed: an object)")
    return given


def bundle_of(given: Mapping[str, Any], bundles: Mapping[str, Facts], key: str) -> str:
    """The name of the bundle that a request means under `key`: one of its name, of its trial's id,
    or the only one. Raises RefusedError where there is none."""
    name = given.get(key)
    if name is None:
        if len(bundles) > 1:
            raise RefusedError(
                400, key, f"{key}: missing, and several are served ({_allowed(bundles)})"
            )
        return next(iter(bundles))
    if not isinstance(name, str):
        raise RefusedError(400, key, f"{key}: {shown(name)} is no text ({_allowed(bundles)})")
    if name in bundles:
        return name
    by_id = [each for each, facts in bundles.items() if facts.trial == name]
    if len(by_id) != 1:
        raise RefusedError(404, key, str(unknown(key, name[:80], list(bundles))))
    return by_id[0]


def _allowed(bundles: Mapping[str, Facts]) -> str:
    return f"allowed: {', '.join(sorted(bundles))}"


def task_of(given: Mapping[str, Any], facts: Facts) -> str | None:
    """The task that a request names. Raises RefusedError where it does not fit."""
    task = given.get("task")
    if task is not None and not isinstance(task, str):
        raise RefusedError(400, "task", f"task: {shown(task)} is no text (allowed: a task's name)")
    try:
        facts.told(task and task[:200], "task")
    except InputError as error:
        raise RefusedError(400, "task", str(error)) from None
    return task


def _top_k(given: Mapping[str, Any], facts: Facts) -> int:
    top_k = given.get("top_k", 1)
    most = len(facts.class_names)
    if type(top_k) is not int or not 1 <= top_k <= most:
        raise RefusedError(
            400, "top_k", f"top_k: {shown(top_k)} is not allowed (allowed: 1 to {most})"
        )
    return top_k


def _inputs(given: Mapping[str, Any], facts: Facts, settings: ServingSettings) -> list[Any]:
    inputs = given.get("inputs")
    what = "texts" if facts.modality == "text" else "images in base64"
    allowed = f"allowed: a list of 1 to {settings.max_rows} {what}"
    if "inputs" not in given:
        raise RefusedError(400, "inputs", f"inputs: missing ({allowed})")
    if not isinstance(inputs, list) or not inputs:
        raise RefusedError(400, "inputs", f"inputs: {shown(inputs)} is not allowed ({allowed})")
    if len(inputs) > settings.max_rows:
        raise RefusedError(413, "inputs", f"inputs: {len(inputs)} were given ({allowed})")
    if facts.modality == "text":
        return [text_of(each, f"inputs[{n}]", settings) for n, each in enumerate(inputs)]
    return [_image(each, f"inputs[{n}]") for n, each in enumerate(inputs)]


def text_of(value: Any, key: str, settings: ServingSettings) -> str:
    """A text of a request. Raises RefusedError where it is none, empty or too long."""
    most = settings.max_characters
    allowed = f"allowed: a text of 1 to {most:,} characters"
    if not isinstance(value, str):
        raise RefusedError(400, key, f"{key}: {shown(value)} is no text ({allowed})")
    if not value.strip():
        raise RefusedError(400, key, f"{key}: {shown(value)} is empty ({allowed})")
    if len(value) > most:
        raise RefusedError(413, key, f"{key}: has {len(value):,} characters ({allowed})")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RefusedError(400, key, f"{key}: holds half a character ({allowed})") from None
    return value


def _image(value: Any, key: str) -> bytes:
    allowed = "allowed: an image's file in base64"
    if not isinstance(value, str):
        raise RefusedError(400, key, f"{key}: {shown(value)} is no text ({allowed})")
    try:
        return binascii.a2b_base64(value, strict_mode=True)
    except ValueError as error:
        raise RefusedError(400, key, f"{key}: is no base64 ({error}; {allowed})") from None
