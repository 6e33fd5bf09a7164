"""Serving from the first check to the last answer."""

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from aiohttp import web

from lamina.bundles import Bundle
from lamina.orchestration.cluster import cluster
from lamina.orchestration.serving.deployment import load_serve, replicas
from lamina.orchestration.serving.front import Front
from lamina.orchestration.serving.settings import ServingSettings, check_access
from lamina.registry import InputError

_LAST_ANSWERS = 10.0
"""Seconds that requests which are being answered get when it is told to stop."""


def serve_bundles(
    bundles: Mapping[str, Bundle],
    settings: ServingSettings,
    token: str | None,
    started: Callable[[str], None],
) -> None:
    """Answer requests until SIGINT or SIGTERM, then stop all that was started. `started` is called
    with the address when the first request can come.

    Raises InputError where the address is taken, needs a token, or the replicas do not start.
    """
    check_access(settings, token)
    facts = {name: each.facts for name, each in bundles.items()}
    with _listening(settings) as listening:
        host, port = listening.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        # A package that is missing is said before Ray has started, which takes seconds.
        load_serve()
        with cluster(), _terminating(), replicas(bundles, settings) as running:
            front = Front(facts, settings, token, running.send, running.is_healthy)
            asyncio.run(_answer(front, listening, lambda: started(address)))


async def _answer(front: Front, listening: socket.socket, started: Callable[[], None]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # No access log: a request's headers and texts are nobody else's business.
    runner = web.AppRunner(
        front.application(), access_log=None, shutdown_timeout=_LAST_ANSWERS, handle_signals=False
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listening).start()
        started()
        await stop.wait()
    finally:
        await runner.cleanup()


@contextmanager
def _listening(settings: ServingSettings) -> Iterator[socket.socket]:
    """The address, taken before anything is started that takes seconds."""
    try:
        family, *_, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM
        )[0]
        listening = socket.create_server(address[:2], family=family)
    except OSError as error:
        raise InputError(
            f"--host, --port: cannot listen at {settings.host}:{settings.port} ({error.strerror}; "
            "allowed: an address of this machine and a free port, or 0)"
        ) from error
    with listening:
        yield listening


@contextmanager
def _terminating() -> Iterator[None]:
    """While starting and stopping, SIGTERM ends as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)
