"""Replicas of resident bundles, which Ray Serve keeps alive."""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import RayActorError

from lamina.bundles import Bundle, open_bundle
from lamina.garbage import collect_seldom
from lamina.orchestration.serving.batching import Send
from lamina.orchestration.serving.question import Question
from lamina.orchestration.serving.resident_bundles import Answer, ResidentBundles
from lamina.orchestration.serving.settings import ServingSettings
from lamina.registry import InputError

_TRIES = 3
"""A batch whose replica dies is answered by another, or by the one that follows it: so often."""
_CONTROLLER = "SERVE_CONTROLLER_ACTOR"
"""Ray Serve's own name of the actor that runs it."""
_NEVER_FULL = 100
"""Batches that a replica may be given. The front sends two at most: one to work on, and the next.
Ray Serve asks a replica that it believes to be full again after a while, in which it would idle."""
_THREADS_SLEEP = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Threads that have done their share of a product sleep until the next. They would spin, and keep
those from the core that they wait for wherever something else runs there too, HTTP for one: on a
busy machine of two cores, eight texts a second in place of sixty and more."""
_KNOWN_SECONDS = 1.0
"""How long it is believed that replicas are well."""


@dataclass(frozen=True)
class Replicas:
    """The running replicas."""

    send: Send
    """Has one of them answer a batch."""
    is_healthy: Callable[[], Awaitable[bool]]
    """Whether all are well."""


class Replica:
    """One process that answers. Ray Serve makes it, and again when it has died."""

    def __init__(self, bundles: Mapping[str, tuple[str, str]], settings: ServingSettings) -> None:
        """`bundles` are their folders with their digests, by name."""
        import torch

        collect_seldom()
        torch.set_num_threads(settings.cores)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        opened = {name: _reopened(Path(path), digest) for name, (path, digest) in bundles.items()}
        self._bundles = ResidentBundles(opened, settings, device)
        # What is laid over a backbone is laid over it for one call at a time.
        self._worker = ThreadPoolExecutor(1, "answers")

    async def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """The answers to a batch, in its order."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, self._bundles.answer, questions)


@contextmanager
def replicas(bundles: Mapping[str, Bundle], settings: ServingSettings) -> Iterator[Replicas]:
    """Replicas on the Ray that this process is connected to, until the end. Their machines must see
    the bundles' folders under the same paths.

    Raises InputError where they do not start.
    """
    serve = load_serve()
    name = f"lamina-{uuid4().hex[:8]}"
    given = {key: (str(each.folder.resolve()), each.digest) for key, each in bundles.items()}
    # Counted here: another machine may have more.
    settings = replace(settings, threads=settings.cores)
    _check_cores(settings)
    gpus = int(ray.cluster_resources().get("GPU", 0) >= settings.replicas)
    application = serve.deployment(Replica).options(
        name="replica",
        num_replicas=settings.replicas,
        max_ongoing_requests=_NEVER_FULL,
        ray_actor_options={
            "num_cpus": settings.cores,
            "num_gpus": gpus,
            "runtime_env": {"env_vars": _THREADS_SLEEP},
        },
        graceful_shutdown_timeout_s=5,
        graceful_shutdown_wait_loop_s=0.1,
        logging_config={"enable_access_log": False},
    )
    with _serve_running(serve):
        try:
            handle = _started(serve, application.bind(given, settings), name)
            yield Replicas(_sender(handle), _watch(serve, name))
        finally:
            serve.delete(name)


def _started(serve: Any, application: Any, name: str) -> Any:
    """The handle of an application that runs. Raises InputError where it does not start."""
    try:
        return serve.run(application, name=name, route_prefix=None)
    except RuntimeError as error:
        reason = _reason(serve, name) or str(error)
        raise InputError(f"lamina serve: the replicas do not start: {reason}") from error


@contextmanager
def _serve_running(serve: Any) -> Iterator[None]:
    """Ray Serve, as it is where this cluster has one that others use."""
    actors = ray.util.list_named_actors(all_namespaces=True)
    is_there = any(each["name"] == _CONTROLLER for each in actors)
    serve.start(proxy_location="Disabled")
    try:
        yield
    finally:
        # One on a Ray of our own ends with it.
        if os.environ.get("RAY_ADDRESS") and not is_there:
            serve.shutdown()


def _check_cores(settings: ServingSettings) -> None:
    """Raises InputError where the replicas would wait for cores that never come. A cluster that was
    there before may bring more machines."""
    needed, there = settings.replicas * settings.cores, ray.cluster_resources().get("CPU", 0)
    if needed > there and not os.environ.get("RAY_ADDRESS"):
        raise InputError(
            f"--replicas, --threads: {settings.replicas} x {settings.cores} need {needed} CPU "
            f"cores (allowed: {there:g})"
        )


def load_serve() -> Any:
    """Ray Serve. Raises InputError where its packages are not installed."""
    # What it has to say of its own state is in its log files.
    os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")
    try:
        from ray import serve
    except ImportError as error:
        raise InputError(
            f"lamina serve: {error.name or 'a package'} is not installed "
            '(pip install "lamina[serve]")'
        ) from error
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    return serve


def _reopened(folder: Path, digest: str) -> Bundle:
    bundle = open_bundle(folder)
    if bundle.digest != digest:
        raise InputError(f"RUN: {str(folder)!r} has changed since it was checked")
    return bundle


def _sender(handle: Any) -> Send:
    async def send(questions: Sequence[Question]) -> list[Answer]:
        for _ in range(_TRIES - 1):
            try:
                return await handle.answer.remote(questions)
            except RayActorError:
                continue
        return await handle.answer.remote(questions)

    return send


def _watch(serve: Any, name: str) -> Callable[[], Awaitable[bool]]:
    known: dict[str, Any] = {"at": -_KNOWN_SECONDS, "healthy": False}

    async def is_healthy() -> bool:
        if time.monotonic() - known["at"] > _KNOWN_SECONDS:
            known["at"] = time.monotonic()
            status = await asyncio.to_thread(serve.status)
            app = status.applications.get(name)
            known["healthy"] = app is not None and app.status == "RUNNING"
        return bool(known["healthy"])

    return is_healthy


def _reason(serve: Any, name: str) -> str | None:
    """The error of the last replica that failed."""
    app = serve.status().applications.get(name)
    said = [each.message for each in app.deployments.values()] if app else []
    lines = [line.strip() for text in said for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line]
    return errors[-1].rpartition("InputError: ")[2] if errors else None
