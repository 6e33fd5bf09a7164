"""Sees to it that the store answers, so that no call of a host, a thin trial or the driver waits
for a store that never will."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray
from ray.exceptions import ActorDiedError, RayError

from lamina.orchestration.store.client import SilentStoreError, StoreClient

ASK_SECONDS = 5.0
"""How often the store is asked whether it is there."""
SILENT_SECONDS = 60.0
"""A store that says nothing for so long is started again, and then has twice as long."""
MOST_STARTS = 3
"""How often in a row the store is started again before it is given up."""
_STEP_SECONDS = 1.0
"""Silence is counted in such steps: where this process was held up as well, it costs one."""


@contextmanager
def watched(store: StoreClient, on_silence: Callable[[float], None]) -> Iterator[None]:
    """While within, a thread asks the store every few seconds whether it is there.

    One that does not answer in time (it is stopped, or its disk hangs) is killed, and `on_silence`
    is told for how many seconds it was silent. Ray starts it again; it reads its state from the
    disk, and Ray makes the calls again that were under way. One that is silent again and again is
    killed for good: then all calls of it raise, and this raises SilentStoreError.
    """
    is_over, is_given_up = threading.Event(), threading.Event()

    def watch() -> None:
        silences = 0
        while not is_over.wait(ASK_SECONDS):
            asked = store.ask()
            while not _is_answered(asked, deadline := SILENT_SECONDS * 2**silences, is_over):
                if is_over.is_set():
                    return
                if silences == MOST_STARTS:
                    is_given_up.set()
                    store.kill()
                    return
                silences += 1
                store.start_again()
                on_silence(deadline)
            try:
                ray.get(asked)
                silences = 0
            except ActorDiedError:
                return  # For good: the driver meets the same error.
            except RayError:
                pass  # Somebody else has killed it, and it is coming back.

    thread = threading.Thread(target=watch, name="store watch", daemon=True)
    thread.start()
    try:
        yield
    except Exception as error:
        if is_given_up.is_set():
            raise SilentStoreError(
                "the store of the sweep does not answer, however often it is started again "
                f"({MOST_STARTS} times): is its disk there? The same command goes on from what it "
                "holds"
            ) from error
        raise
    finally:
        is_over.set()
        # Ray must not be shut down under it.
        thread.join()


def _is_answered(asked: "ray.ObjectRef[int]", deadline: float, is_over: threading.Event) -> bool:
    waited = 0.0
    while waited < deadline and not is_over.is_set():
        ready, _ = ray.wait([asked], timeout=_STEP_SECONDS)
        if ready:
            return True
        waited += _STEP_SECONDS
    return False
