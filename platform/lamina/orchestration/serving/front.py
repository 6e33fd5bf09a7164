"""HTTP: who may ask, what is asked, and the answers as JSON."""

import asyncio
import hmac
import json
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler

from lamina.bundles import Prediction
from lamina.bundles.facts import Facts
from lamina.orchestration.serving import completions
from lamina.orchestration.serving.batching import Batcher, Send
from lamina.orchestration.serving.metrics import CONTENT_TYPE, NO_BUNDLE, Metrics
from lamina.orchestration.serving.question import Question, RefusedError, read_question
from lamina.orchestration.serving.resident_bundles import Answer
from lamina.orchestration.serving.settings import ServingSettings
from lamina.registry import InputError

HEALTH = "/healthz"
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_UNDER_WAY = 2
"""Batches per replica: one that it works on, and one that is on its way."""

_Read = Callable[[bytes, Mapping[str, Facts], ServingSettings], Question]
_Said = Callable[[Question, list[Any]], dict[str, Any]]


class Front:
    """The application that answers HTTP."""

    def __init__(
        self,
        bundles: Mapping[str, Facts],
        settings: ServingSettings,
        token: str | None,
        send: Send,
        is_healthy: Callable[[], Awaitable[bool]],
    ) -> None:
        """`send` has a replica answer; `token`, where there is one, is what requests must know."""
        self._bundles = bundles
        self._settings = settings
        # Digests are of one length, so comparing them tells nothing of the token's.
        self._token = None if token is None else _digest(f"Bearer {token}")
        self._is_healthy = is_healthy
        self._metrics = Metrics(list(bundles))
        self._send = send
        self._batcher = Batcher(
            self._sent,
            batch_rows=settings.batch_rows,
            most_under_way=_UNDER_WAY * settings.replicas,
            max_waiting_rows=settings.max_waiting_rows,
        )

    def application(self) -> web.Application:
        """The HTTP application."""
        app = web.Application(
            middlewares=[self._refusing], client_max_size=self._settings.max_body_bytes
        )
        app.router.add_get(HEALTH, self._health)
        app.router.add_get("/metrics", self._said_metrics)
        app.router.add_get("/v1/bundles", self._said_bundles)
        app.router.add_post("/v1/predict", self._predict)
        app.router.add_post(completions.TEXT, self._completion)
        app.router.add_post(completions.CHAT, self._completion)
        app.router.add_get(completions.MODELS, self._said_models)
        return app

    @web.middleware
    async def _refusing(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Lets in who may, and says as JSON what is wrong."""
        headers = {}
        try:
            self._let_in(request)
            return await handler(request)
        except RefusedError as error:
            status, key, message = error.status, error.key, error.message
        except web.HTTPRequestEntityTooLarge:
            most = self._settings.max_body_bytes
            status, key = 413, "body"
            message = f"body: is too large (allowed: {most:,} bytes)"
        except web.HTTPException as error:
            status, key = error.status, "path"
            message = f"{request.method} {request.path[:200]}: {error.reason} ({_paths(request)})"
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if status == 503:
            headers["Retry-After"] = "1"
        wrong: dict[str, Any] = {"error": {"key": key, "message": message}}
        if request.path in completions.PATHS:
            wrong = completions.error_of(status, key, message)
        return web.json_response(wrong, status=status, headers=headers)

    def _let_in(self, request: web.Request) -> None:
        """Raises RefusedError for whoever may not ask."""
        if self._token is None:
            # A page in a browser can point a name of its own at this machine.
            if _host_of(request) not in (*_LOCAL_NAMES, self._settings.host):
                raise RefusedError(
                    403,
                    "Host",
                    f"Host: {request.host[:80]!r} is not this machine (allowed: localhost)",
                )
        elif request.path != HEALTH:
            given = _digest(request.headers.get("Authorization", ""))
            if not hmac.compare_digest(given, self._token):
                raise RefusedError(
                    401, "Authorization", "Authorization: no valid token (allowed: Bearer TOKEN)"
                )

    async def _health(self, request: web.Request) -> web.Response:
        is_healthy = await self._is_healthy()
        status = 200 if is_healthy else 503
        return web.json_response({"status": "ok" if is_healthy else "starting"}, status=status)

    async def _said_metrics(self, request: web.Request) -> web.Response:
        text = self._metrics.text(self._batcher.waiting_rows)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})

    async def _said_bundles(self, request: web.Request) -> web.Response:
        said = [_description(name, facts) for name, facts in self._bundles.items()]
        return web.json_response({"bundles": said})

    async def _said_models(self, request: web.Request) -> web.Response:
        return web.json_response(completions.models(self._bundles))

    async def _predict(self, request: web.Request) -> web.Response:
        return await self._asked(request, read_question, _predicted)

    async def _completion(self, request: web.Request) -> web.Response:
        is_chat = request.path == completions.CHAT
        read = partial(completions.read_completion, is_chat=is_chat)
        said = partial(completions.completion, is_chat=is_chat)
        return await self._asked(
            request, read, lambda question, found: said(question.bundle, found)
        )

    async def _asked(self, request: web.Request, read: _Read, said: _Said) -> web.Response:
        """The answer to a request, which `read` makes a question of, as `said` puts it."""
        start = time.perf_counter()
        question: Question | None = None
        status = 500
        try:
            question = read(await self._body(request), self._bundles, self._settings)
            found = await self._answer(question)
            status = 200
            return web.json_response(said(question, found), dumps=_dumps)
        except RefusedError as error:
            status = error.status
            raise
        except web.HTTPException as error:
            status = error.status
            raise
        finally:
            name, rows = (question.bundle, len(question.values)) if question else (NO_BUNDLE, 0)
            self._metrics.answered(name, status, rows, time.perf_counter() - start)

    async def _body(self, request: web.Request) -> bytes:
        """Raises RefusedError where it is no JSON by its header, or too large by it."""
        # A page of another site can post anything but this without being asked first.
        if request.content_type != "application/json":
            raise RefusedError(
                415,
                "Content-Type",
                f"Content-Type: {request.content_type[:80]!r} (allowed: application/json)",
            )
        if (request.content_length or 0) > self._settings.max_body_bytes:
            raise web.HTTPRequestEntityTooLarge(self._settings.max_body_bytes)
        return await request.read()

    async def _answer(self, question: Question) -> list[Any]:
        """Raises RefusedError where there is none."""
        seconds = self._settings.seconds
        try:
            answer = await asyncio.wait_for(self._batcher.ask(question), seconds)
        except TimeoutError:
            raise RefusedError(
                504, "inputs", f"inputs: no answer within {seconds:g} seconds"
            ) from None
        if isinstance(answer, InputError):
            message = str(answer).removeprefix("stream.image_column: ")
            raise RefusedError(400, "inputs", message)
        if isinstance(answer, Exception):
            print(f"{question.bundle}: {answer}", file=sys.stderr, flush=True)
            raise RefusedError(
                500, "bundle", f"bundle: {question.bundle!r} failed; its log says why"
            )
        return answer

    async def _sent(self, questions: Sequence[Question]) -> list[Answer]:
        self._metrics.sent(questions)
        return await self._send(questions)


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogateescape")).digest()


def _host_of(request: web.Request) -> str | None:
    """The name that whoever asks knows this machine by, without a port."""
    try:
        return urlsplit(f"//{request.host}").hostname
    except ValueError:
        return None


def _paths(request: web.Request) -> str:
    paths = sorted(
        f"{route.method} {route.resource.canonical}"
        for route in request.app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    )
    return f"allowed: {', '.join(paths)}"


def _description(name: str, facts: Facts) -> dict[str, Any]:
    return {
        "name": name,
        "trial": facts.trial,
        "modality": facts.modality,
        "answers": facts.answers,
        "scenario": facts.scenario,
        "needs_task": facts.needs_task,
        "classes": list(facts.class_names),
        "tasks": [
            {"name": each.name, "classes": list(facts.names_of(each))} for each in facts.tasks
        ],
        "metrics": facts.metrics,
        "backbone": {"source": facts.backbone.source, "digest": facts.backbone.digest},
    }


def _predicted(question: Question, predictions: list[Prediction]) -> dict[str, Any]:
    said = [_plain(each, question.top_k) for each in predictions]
    return {"bundle": question.bundle, "predictions": said}


def _plain(prediction: Prediction, top_k: int) -> dict[str, Any]:
    """As `lamina predict` writes it."""
    said: dict[str, Any] = {"label": prediction.label, "score": round(prediction.score, 6)}
    if prediction.task is not None:
        said["task"] = prediction.task
    if top_k > 1:
        said["top"] = [
            {"label": label, "score": round(score, 6)} for label, score in prediction.top
        ]
    return said


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
