"""Heartbeats of hosts: each host sends one every few seconds, and a host that is silent is taken
for lost."""

import time
from collections.abc import Callable

from lamina.orchestration.store.shared_store import SharedStore

BEAT_SECONDS = 5.0
"""Seconds between two heartbeats of a host."""
SILENT_SECONDS = 30.0
"""A host that says nothing for so long gives its trials up. A little more than a host needs that
died and is started again on the same machine, which goes on with them best."""


class HostWatch:
    """Which hosts have come, have left, or have been silent for too long.

    Names are in the ledger, so a store that was killed knows which hosts to wait for. Times are in
    memory: a new store takes every host as just heard of.
    """

    def __init__(
        self,
        store: SharedStore,
        clock: Callable[[], float] = time.monotonic,
        deadline: float = SILENT_SECONDS,
    ) -> None:
        """`clock` tells seconds; after `deadline` of them a silent host is gone."""
        self._store = store
        self._clock = clock
        self._deadline = deadline
        self._last_heard = {host: clock() for host in self._named(is_here=True)}
        self._last_look = clock()
        self._missed: set[str] = set()

    def hear(self, host: str) -> None:
        """Note a heartbeat of `host`."""
        if host not in self._last_heard:
            self._set(host, is_here=True)
        self._last_heard[host] = self._clock()
        self._missed.discard(host)

    def leave(self, host: str) -> None:
        """`host` has handed over everything and ends."""
        self._last_heard.pop(host, None)
        self._set(host, is_here=False)

    def lose(self, host: str, error: str) -> None:
        """`host` is gone: its trials go to others."""
        self._last_heard.pop(host, None)
        with self._store.ledger.transaction():
            self._store.ledger.change("DELETE FROM hosts WHERE host = ?", host)
            self._store.release(host)
            self._store.ledger.add_event("host_lost", host=host, error=error)

    def lose_silent(self) -> None:
        """Lose every host that is silent past its deadline. To be called every second or so: where
        the store itself was held up in between, no host is to blame, and each has its full time
        again."""
        now = self._clock()
        if now - self._last_look > self._deadline / 2:
            self._last_heard = dict.fromkeys(self._last_heard, now)
        self._last_look = now
        for host, last in list(self._last_heard.items()):
            if now - last > self._deadline:
                said = (
                    f"nothing heard of it for {self._deadline:.0f} s; others take over its trials"
                )
                self.lose(host, said)

    def miss(self, host: str, needs: str) -> None:
        """`host` has not come, as no machine has what it `needs`. Said once, until it comes."""
        if host not in self._last_heard and host not in self._missed:
            self._missed.add(host)
            self._store.ledger.add_event("host_missing", host=host, needs=needs)

    def here(self) -> list[str]:
        """The hosts that are there."""
        return list(self._last_heard)

    def left(self) -> list[str]:
        """The hosts of this session that have come and left."""
        return self._named(is_here=False)

    def _named(self, is_here: bool) -> list[str]:
        return self._store.ledger.column("SELECT host FROM hosts WHERE is_here = ?", is_here)

    def _set(self, host: str, is_here: bool) -> None:
        with self._store.ledger.transaction():
            self._store.ledger.change("INSERT OR REPLACE INTO hosts VALUES (?, ?)", host, is_here)
