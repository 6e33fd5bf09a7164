"""The queue of what waits to be written."""

from threading import Thread

import pytest

from lamina.tracking.backlog import Backlog, Point, Points


def point(step: int) -> Point:
    return Point("loss", 0.5, 0, step)


def taken(backlog: Backlog[str]) -> list[str | Points]:
    """All that is left in a closed backlog."""
    return list(iter(backlog.take, None))


def test_points_of_a_run_join_those_that_wait():
    backlog: Backlog[str] = Backlog()
    for step in range(3):
        for trial in ("a", "b"):
            backlog.put_points(trial, [point(step)])
    backlog.close()

    assert taken(backlog) == [
        Points("a", [point(0), point(1), point(2)]),
        Points("b", [point(0), point(1), point(2)]),
    ]


def test_points_do_not_overtake_an_action_on_their_run():
    backlog: Backlog[str] = Backlog()
    backlog.put_action("a", "start a")
    backlog.put_points("a", [point(0)])
    backlog.put_action("b", "start b")
    backlog.put_points("a", [point(1)])
    backlog.put_action("a", "finish a")
    backlog.put_points("a", [point(2)])
    backlog.close()

    assert taken(backlog) == [
        "start a",
        Points("a", [point(0), point(1)]),
        "start b",
        "finish a",
        Points("a", [point(2)]),
    ]


def test_points_that_are_taken_get_no_more():
    backlog: Backlog[str] = Backlog()
    backlog.put_points("a", [point(0)])
    first = backlog.take()
    backlog.put_points("a", [point(1)])

    assert first == Points("a", [point(0)])
    assert backlog.take() == Points("a", [point(1)])


def test_taking_waits_for_something_to_take():
    backlog: Backlog[str] = Backlog()
    seen: list[str | Points | None] = []
    reader = Thread(target=lambda: seen.extend([backlog.take(), backlog.take()]))
    reader.start()
    backlog.put_action("a", "start a")
    backlog.close()
    reader.join(10)

    assert seen == ["start a", None]


def test_nothing_may_be_said_after_the_end():
    backlog: Backlog[str] = Backlog()
    backlog.close()

    with pytest.raises(AssertionError, match="closed"):
        backlog.put_action("a", "start a")
