"""Who is at which task, and when: read from the stream manifest and the timetable."""

from collections.abc import Sequence
from math import floor

from lamina.federation.timetable import Entry, arrivals, arrived
from lamina.federation.work import Item
from lamina.streams.manifest import Delivery, StreamManifest


class Schedule:
    """Answers questions about a run's timetable. It holds nothing that changes in a run but the
    last answer to `trainable`."""

    def __init__(self, manifest: StreamManifest, timetable: Sequence[Entry]) -> None:
        self._manifest = manifest
        self._timetable = timetable
        self._at_server = any(each.kind == "end" for each in timetable)
        self._arrivals = arrivals(manifest)
        self._trainable: tuple[tuple[float, int], float | None, list[int]] | None = None

    def trainable(self, entry: Entry) -> list[int]:
        """The clients that can train in a round: those present. Where tasks begin at the server,
        only those of them whose rows are of the round's task."""
        key = (float(floor(entry.time)), entry.task)
        known = self._trainable
        if known is not None and known[0] == key and (known[1] is None or entry.time < known[1]):
            return known[2]
        found = self._manifest.present(entry.time)
        if self._at_server:
            found = [
                client
                for client in found
                if (delivery := self._manifest.latest(client, entry.time))
                and delivery.task == entry.task
            ]
        self._trainable = (key, self._manifest.next_change(entry.time), found)
        return found

    def summarising(self, entry: Entry) -> list[int]:
        """The clients that got rows of the entry's task in its step of the stream."""
        return self._arrivals.get(floor(entry.time), {}).get(entry.task, [])

    def summarised(self, client: int, entry: Entry) -> list[Delivery]:
        """The deliveries whose rows a client sums over before or after a task."""
        deliveries = arrived(self._manifest, client, floor(entry.time))
        return [each for each in deliveries if each.task == entry.task]

    def delivery(self, client: int, time: float) -> Delivery:
        """The delivery whose rows a client trains on at a time, in stream steps."""
        found = self._manifest.latest(client, time)
        assert found is not None, "a client without rows is not asked"
        return found

    def task_at(self, client: int, entry: Entry, time: float) -> int:
        """The task that a client is at: the entry's where all are at it, or else its own."""
        if self._at_server or entry.kind != "train":
            return entry.task
        return self.delivery(client, time).task

    def evaluation_items(self, number: int, version: int, *, personal: bool) -> tuple[Item, ...]:
        """What is asked at the timetable's entry of this number, which is an evaluation: of the
        global state, or (`personal`) of each client that has validation or test rows of a task."""
        time, seen = self._timetable[number].time, range(self._num_begun(number))
        if not personal:
            return tuple(Item(None, task, version, time) for task in seen)
        counts = self._manifest.counts[:, :, 1:].sum(dim=2)
        return tuple(
            Item(client, task, version, time)
            for client in range(len(self._manifest))
            for task in seen
            if counts[client, task] > 0
        )

    def _num_begun(self, number: int) -> int:
        """How many tasks have begun at an entry, counted to the last that has, at the server or at
        any client."""
        if self._at_server:
            begun = [each.task for each in self._timetable[:number] if each.kind == "begin"]
        else:
            time = self._timetable[number].time
            begun = [task for step, came in self._arrivals.items() if step <= time for task in came]
        return 1 + max(begun, default=0)
