"""Broadcasts: what is sent to all workers, once each; and the chunks of work that refer to it."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Protocol

from lamina.federation.server.server_state import ServerState
from lamina.federation.state import GlobalState
from lamina.federation.work import DownloadSizes, Work
from lamina.orchestration.federated.chunks import CHUNKS, Chunk, chunks_of
from lamina.orchestration.federated.pool import Pool
from lamina.training.checkpoint import pack


class ClientStore(Protocol):
    """Where what clients keep is, and where the state of a run is kept."""

    def put(self, content: bytes) -> str:
        """Keep what a client keeps; returns its digest."""
        ...

    def get(self, digest: str) -> bytes:
        """The content of this digest."""
        ...

    def replaced(self, digest: str | None) -> None:
        """Mark content that is not needed once the next state is kept."""
        ...

    def keep(self, server: ServerState) -> None:
        """Make this state of a run the last one."""
        ...


class Broadcasts:
    """What every worker reads: the global states, the shared model, the summed summaries. Each is
    published once and dropped when no more work needs it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._sizes: dict[str, int] = {}

    def chunks(
        self, server: ServerState, work: Work, store: ClientStore
    ) -> tuple[list[Chunk], DownloadSizes]:
        """A work cut into chunks, and what each of its clients is sent."""
        versions = {
            server.version,
            *server.history.states,
            *(item.version for item in work.items),
        }
        states = {
            version: f"state {server.num_boundaries}.{version}" for version in sorted(versions)
        }
        for version, key in states.items():
            self._put(key, partial(broadcast, server.state_of(version)))
        shared_model = summary = None
        if server.shared_model is not None:
            shared_model = f"shared_model {server.num_boundaries}"
            self._put(shared_model, partial(pack, server.shared_model.plain()))
        if server.summary is not None:
            summary = f"summary {server.num_done}"
            self._put(summary, partial(pack, dict(server.summary.sums)))
        stale = sorted(self._sizes.keys() - {shared_model, summary, *states.values()})
        self._pool.forget(stale)
        for key in stale:
            del self._sizes[key]
        client_states = [_client_state(server, store, item.client) for item in work.items]
        chunks = [
            Chunk(
                work.entry,
                work.items[each],
                tuple(client_states[each]),
                shared_model,
                states,
                summary,
            )
            for each in chunks_of(work.items, CHUNKS)
        ]
        shared_model_size = 0 if shared_model is None else self._sizes[shared_model]
        return chunks, DownloadSizes(self._sizes[states[server.version]], shared_model_size)

    def _put(self, key: str, make: Callable[[], bytes]) -> None:
        if key not in self._sizes:
            content = make()
            self._sizes[key] = len(content)
            self._pool.publish(key, content)


def _client_state(server: ServerState, store: ClientStore, client: int | None) -> bytes | None:
    digest = None if client is None else server.client_states.get(client)
    return None if digest is None else store.get(digest)


def broadcast(state: GlobalState) -> bytes:
    """A global state as clients are sent it, without what only the server needs."""
    return pack(replace(state, optimiser_state={}, discarded={}, included=()).plain())
