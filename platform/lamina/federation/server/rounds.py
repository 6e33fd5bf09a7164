"""The state machine of a federated run: what is to be done next, and what its results make of the
server's state. Pure: no Ray, no files, no model; whoever runs it does the work and keeps the state.

    boundaries   `begin` and `end` of a task at the server
    summaries    `preview` and `review` of a task: the clients' sums are added up
    rounds       training (`lamina.federation.server.training_round`)
    answers      evaluation
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lamina.federation.checking import Expected
from lamina.federation.server.admission import admitted, client_of
from lamina.federation.server.run_settings import RunSettings
from lamina.federation.server.schedule import Schedule
from lamina.federation.server.scores import scores_of
from lamina.federation.server.server_state import ServerState
from lamina.federation.server.summaries import summed
from lamina.federation.server.training_round import TrainingRound
from lamina.federation.timetable import BOUNDARIES, Entry
from lamina.federation.work import DownloadSizes, Item, Reply, Work
from lamina.registry import InputError


class FederatedRun:
    """A run between two works. `work` says what is next, `apply` takes what it came to; the same
    answers give the same state, whoever worked out which of them when."""

    def __init__(self, settings: RunSettings) -> None:
        """Raises InputError where the privacy budget does not cover the run."""
        self.settings = settings
        self.server = ServerState(settings)
        self._schedule = Schedule(settings.manifest, settings.timetable)
        self._work: Work | None = None
        self._round: TrainingRound | None = None

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        return self.server.num_done == len(self.settings.timetable)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `ServerState.state_dict` gave. Raises InputError for another format."""
        self.server.load_state_dict(state)
        self._work = self._round = None

    def work(self) -> Work | None:
        """What is to be done now: the same until `apply` has taken its results."""
        if self.done:
            return None
        if self._work is None:
            number = self.server.num_done
            entry = self.settings.timetable[number]
            self._work = Work(number, entry, self._items(entry))
        return self._work

    def apply(self, work: Work, replies: Sequence[Reply], sizes: DownloadSizes) -> dict[str, float]:
        """Take the replies to the items of `work`, in the items' order. `sizes` is what each of its
        clients was sent. Returns what is worth recording of it."""
        assert work == self._work, "only what is to be done now can be applied"
        metrics: dict[str, float] = {}
        match work.entry.kind:
            case "begin" | "end":
                self._apply_boundary(work.entry, replies[0])
            case "preview" | "review":
                self._apply_summaries(work, replies, sizes)
            case "train":
                assert self._round is not None, "a round is planned before it is applied"
                metrics = self._round.apply(work.items, replies, sizes)
            case "evaluate":
                metrics = self._apply_answers(work, replies)
        self.server.num_done += 1
        self._work = self._round = None
        return metrics

    def _items(self, entry: Entry) -> tuple[Item, ...]:
        """What is asked of whom at an entry."""
        server, schedule = self.server, self._schedule
        if entry.kind in BOUNDARIES:
            return (Item(None, entry.task, server.version, entry.time),)
        if entry.kind == "train":
            self._round = TrainingRound(self.settings, schedule, server, entry)
            return self._round.items()
        if entry.kind == "evaluate":
            personal = self.settings.personal
            return schedule.evaluation_items(server.num_done, server.version, personal=personal)
        clients = [
            client
            for client in schedule.summarising(entry)
            if server.budgets.covers_sums(schedule.summarised(client, entry))
        ]
        return tuple(
            Item(client, entry.task, server.version, entry.time) for client in (None, *clients)
        )

    def _apply_boundary(self, entry: Entry, reply: Reply) -> None:
        assert reply.boundary is not None
        server, aggregator = self.server, self.settings.aggregator
        server.shared_model, tensors = reply.boundary
        server.num_boundaries += 1
        server.summary = None
        key = aggregator.key_of(entry.task)
        server.global_state = aggregator.after_boundary(server.global_state, tensors, key)
        # What was given before the boundary is out of date.
        server.traffic.count_fates(server.clock.withdraw())
        server.history.clear()

    def _apply_summaries(self, work: Work, replies: Sequence[Reply], sizes: DownloadSizes) -> None:
        """Add up the clients' summaries. The server's summary of a blank row says which sums are
        allowed.

        Raises InputError where privacy leaves nothing to sum up.
        """
        server, entry, (blank, *answers) = self.server, work.entry, replies
        clients = [client_of(item) for item in work.items[1:]]
        for client in clients:
            server.budgets.spend_sums(self._schedule.summarised(client, entry))
        tasks, up = [entry.task] * len(clients), [reply.up for reply in answers]
        server.traffic.count_exchange(clients, tasks, up, sizes, server.num_boundaries)
        base = server.global_state.digest()
        expected = Expected(int(entry.time), entry.kind, {}, base, blank.declared)
        names = self.settings.names_of(clients)
        accepted = admitted(names, [expected] * len(clients), answers, server.traffic)
        if not any(update.num_rows for update in accepted):
            task = self.settings.manifest.tasks[entry.task]
            raise InputError(
                f"strategy: what it must know of task {task!r} nobody says: of {len(clients)} "
                f"clients that were asked, {len(accepted)} answered, with sums over no row "
                "(federation.privacy.summaries.min_rows may be too large, or max_epsilon too small)"
            )
        server.summary = summed(accepted)

    def _apply_answers(self, work: Work, replies: Sequence[Reply]) -> dict[str, float]:
        """Score the answers to an evaluation."""
        settings, server = self.settings, self.server
        answers = [
            (item.client, item.task, reply.flags)
            for item, reply in zip(work.items, replies, strict=True)
        ]
        found = scores_of(
            work.entry.task,
            answers,
            settings.manifest,
            settings.ids,
            settings.personal,
            server.alone,
        )
        server.scores.append(found)
        server.alone = {}
        return found.metrics(self.settings.measure)
