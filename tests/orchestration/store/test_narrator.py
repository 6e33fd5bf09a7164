"""What the tracker is told, and when."""

import asyncio

from lamina.orchestration.store.event_recorder import EventRecorder
from lamina.orchestration.store.narrator import MOST_PENDING, Narrator
from lamina.orchestration.store.queries import MOST_EVENTS
from lamina.orchestration.store.shared_store import SharedStore
from lamina.tracking.json_lines import JsonLinesTracker
from watched import report_of

NUM_REPORTS = 7


class Behind(JsonLinesTracker):
    """A tracker that has a lot to write, until it is said to have caught up."""

    pending = MOST_PENDING + 1


def told(tmp_path):
    path = tmp_path / "events.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_a_tracker_that_is_behind_is_told_no_more_until_it_has_caught_up_or_the_sweep_ends(
    tmp_path,
):
    async def tell():
        store = SharedStore(tmp_path / "store", "session")
        tracker = Behind(tmp_path)
        narrator = Narrator(store, EventRecorder(tracker, tmp_path / "trials"))
        for number in range(NUM_REPORTS):
            store.ledger.add_event("reported", "trial", report=report_of(number))
        narrator.notify()
        await asyncio.sleep(0.5)
        assert told(tmp_path) == 1
        assert narrator.behind == NUM_REPORTS - 1 + tracker.pending
        assert await narrator.close() is None
        assert told(tmp_path) == NUM_REPORTS
        store.close()

    asyncio.run(tell())


def test_whoever_comes_late_is_told_a_part_at_a_time_and_all_in_the_end(tmp_path):
    store = SharedStore(tmp_path / "store", "session")
    for number in range(2 * MOST_EVENTS + 1):
        store.ledger.add_event("reported" if number % 2 else "failed", host="a", on="b")
    numbers, after = [], 0
    while news := store.events(after):
        assert len(news) <= MOST_EVENTS
        after = news[-1][0]
        numbers += [number for number, _ in news]
    assert numbers == list(range(1, 2 * MOST_EVENTS + 2))
    assert store.num_ended_on("a") == MOST_EVENTS
    assert store.num_ended_on("b") == MOST_EVENTS + 1
    assert store.num_ended_on("c") == 0
    store.close()
