"""What a federated run does one after the other: boundaries of tasks, rounds, evaluations."""

from dataclasses import dataclass
from math import floor
from typing import Literal

from lamina.federation.fitness import previews, reviews, trains
from lamina.strategies.base import Strategy
from lamina.streams.manifest import Delivery, StreamManifest

Kind = Literal["preview", "begin", "train", "review", "end", "evaluate"]
BOUNDARIES: tuple[Kind, ...] = ("begin", "end")
"""What the server does itself."""


@dataclass(frozen=True)
class Entry:
    """A line of the timetable: one thing to do. Nothing that is decided on the way is in it."""

    kind: Kind
    time: float
    """In stream steps."""
    task: int = 0
    """The task that begins, ends or is looked at; of a round in step, the one that is trained."""
    round: int = 0
    """The number of the round in the run, from 0; of other entries, how many rounds were before."""
    is_last: bool = False
    """Of a round: whether no other of this task follows in this step of the stream."""


def is_in_step(manifest: StreamManifest) -> bool:
    """Whether all clients get their k-th task in the k-th step of the stream."""
    return all(floor(each.time) == each.task for each in _deliveries(manifest))


def timetable(
    manifest: StreamManifest, strategy: type[Strategy], has_adapter: bool, rounds: int
) -> tuple[Entry, ...]:
    """Every entry of a run with `rounds` rounds in each step of the stream.

    In step, a task begins and ends at the server, with the summaries of all clients that have rows
    of it. Otherwise clients are at tasks of their own, and begin and end them themselves; but a
    strategy that takes no steps learns at the server, from the summaries of what came in each step.
    """
    arrived = arrivals(manifest)
    learns_by_steps = strategy.takes_gradient_steps(has_adapter)
    at_server = is_in_step(manifest) or not learns_by_steps
    entries: list[Entry] = []
    number = 0
    if not at_server:
        entries.append(Entry("begin", 0.0))
    for step in range(max(arrived, default=-1) + 1):
        time = float(step)
        tasks = sorted(arrived.get(step, {})) if at_server else []
        for task in tasks:
            if previews(strategy):
                entries.append(Entry("preview", time, task, number))
            entries.append(Entry("begin", time, task, number))
            if trains(strategy, has_adapter, task):
                for within in range(rounds):
                    last = within == rounds - 1
                    entries.append(Entry("train", time + within / rounds, task, number, last))
                    number += 1
            if reviews(strategy):
                entries.append(Entry("review", time, task, number))
            entries.append(Entry("end", time, task, number))
        if not at_server:
            for within in range(rounds):
                last = within == rounds - 1
                entries.append(Entry("train", time + within / rounds, 0, number, last))
                number += 1
        entries.append(Entry("evaluate", time, step, number))
    return tuple(entries)


def arrivals(manifest: StreamManifest) -> dict[int, dict[int, list[int]]]:
    """For each step of the stream, who gets rows of which task in it: step -> task -> clients in
    order."""
    found: dict[int, dict[int, list[int]]] = {}
    for delivery in _deliveries(manifest):
        clients = found.setdefault(floor(delivery.time), {}).setdefault(delivery.task, [])
        if delivery.client not in clients:
            clients.append(delivery.client)
    return found


def arrived(manifest: StreamManifest, client: int, step: int) -> list[Delivery]:
    """What came to a client in the stream step from `step` on, in order."""
    return [each for each in manifest.deliveries(client) if step <= each.time < step + 1]


def _deliveries(manifest: StreamManifest) -> list[Delivery]:
    return [each for client in range(len(manifest)) for each in manifest.deliveries(client)]
