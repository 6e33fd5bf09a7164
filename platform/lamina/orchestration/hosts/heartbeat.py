"""Says that a host is there, while it trains."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ray.exceptions import RayError

from lamina.orchestration.store.client import StoreClient
from lamina.orchestration.store.host_watch import BEAT_SECONDS


@contextmanager
def heartbeat(store: StoreClient, host: str) -> Iterator[None]:
    """While within, a thread tells the store every few seconds that `host` is there; the first time
    at once. A process that is stopped or cut off is silent, and the store gives its trials to
    others. One that has left by itself says so."""
    store.beat(host)
    is_over = threading.Event()

    def tell() -> None:
        while not is_over.wait(BEAT_SECONDS):
            # The thread that trains meets the same error, and knows what to do.
            with suppress(RayError):
                store.beat(host)

    thread = threading.Thread(target=tell, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
    store.leave(host)
