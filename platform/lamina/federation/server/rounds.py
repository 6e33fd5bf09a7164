"""The state machine of a federated run: what is to be done next, and what its results make of the
state. Pure: no Ray, no files, no model; whoever runs it does the work and keeps the state."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import floor
from typing import Any

import torch
from torch import Tensor

from lamina.core import Part, Summary
from lamina.evaluation.fairness import mean_over_clients
from lamina.federation.aggregators.base import Aggregator
from lamina.federation.algebra.control_variates import CONTROL, controls_of, shared_control
from lamina.federation.checking import Expected, admit, expected_of
from lamina.federation.optimisers.base import ServerOptimiser
from lamina.federation.privacy.accounting import Accountant
from lamina.federation.privacy.row_accounts import RowAccounts
from lamina.federation.privacy.secure_sum import SumAbortedError
from lamina.federation.privacy.settings import PrivacySettings
from lamina.federation.server.clock import ClockSettings, Load, Participants, Plan, VirtualClock
from lamina.federation.server.private_sum import PrivateSum
from lamina.federation.server.scores import EVALUATED, Scores, over_clients, scores_of
from lamina.federation.server.staleness import discount, rebased
from lamina.federation.server.summaries import summed
from lamina.federation.server.traffic import Traffic, count
from lamina.federation.shared_model import SharedModel
from lamina.federation.state import GlobalState, Scaling
from lamina.federation.timetable import BOUNDARIES, Stop, arrivals, arrived
from lamina.federation.update import ClientUpdate
from lamina.federation.work import DownloadSizes, Item, LocalWork, Reply, Work
from lamina.registry import InputError
from lamina.streams.manifest import Event, StreamManifest

FORMAT = 2
"""Of what `FederatedRun.state_dict` gives: one more whenever its keys or their meaning change."""


def check_format(state: Mapping[str, Any]) -> None:
    """Raises InputError for a run's saved state of another format than this code reads."""
    found = state.get("format", 1)
    if found != FORMAT:
        raise InputError(
            f"output_dir: it holds a federated run in format {found}, and this version of Lamina "
            f"reads format {FORMAT} (allowed: a new folder, or the version that began the run)"
        )


@dataclass(frozen=True)
class RunSettings:
    """All that the course of a run depends on besides what clients answer."""

    manifest: StreamManifest
    timetable: tuple[Stop, ...]
    aggregator: Aggregator
    optimiser: ServerOptimiser | None
    """None: the server takes the average as it is."""
    participants: Participants
    clock: ClockSettings
    local: LocalWork
    batch_size: int
    seed: int
    scaling: Scaling
    ranks: tuple[int, ...]
    """LoRA ranks, dealt to the clients in turn; none: all have the adapter's."""
    personal: bool
    """Whether each client serves a model of its own, and is asked for its answers by itself."""
    ids: Mapping[tuple[Part, int], Tensor]
    """By part and task, the ids of its rows, ascending."""
    controls: bool = False
    """Whether updates bring changes of control variates (SCAFFOLD)."""
    private: PrivateSum | None = None
    """How updates are combined unseen; None: the aggregator sees each."""
    row_privacy: PrivacySettings | None = None
    """What hides the rows of clients in what they send; None: nothing does."""


class FederatedRun:
    """A run between two works. `work` says what is next, `apply` takes what it came to; the same
    answers give the same state, whoever worked out which of them when."""

    def __init__(self, settings: RunSettings) -> None:
        self.settings = settings
        self.place = 0
        """In the timetable."""
        self.clock = VirtualClock(settings.clock, settings.seed)
        self.state = GlobalState({}, scaling=settings.scaling, seed=settings.seed)
        self.version = 0
        """Rounds that are over."""
        self.past: dict[int, GlobalState] = {}
        """Earlier states that somebody still trains from, by version."""
        self.given: dict[int, float] = {}
        """Who is training since before this round, and the stream time of what they were given."""
        self.shared_model: SharedModel | None = None
        self.num_boundaries = 0
        """Task boundaries so far: the number of the shared model."""
        self.summary: Summary | None = None
        """The summed summaries of the clients, until the task boundary that they are for."""
        self.own: dict[int, str] = {}
        """By client, the digest of what it keeps."""
        self.traffic = Traffic(len(settings.manifest), len(settings.manifest.tasks))
        self.accountant = Accountant(1e-5)
        if settings.private is not None:
            privacy = settings.private.settings
            self.accountant = Accountant(privacy.delta, privacy.max_epsilon)
            settings.private.check_budget(self.accountant, self.num_rounds)
        self.row_accounts: RowAccounts | None = None
        if settings.row_privacy is not None:
            self.row_accounts = RowAccounts(
                settings.row_privacy,
                settings.manifest,
                lambda num_rows: settings.local.num_steps(num_rows, settings.batch_size),
                settings.batch_size,
            )
            self.row_accounts.require_one_round()
        self.scores: list[Scores] = []
        self._alone: dict[str, Tensor] = {}
        self._plan: Plan | None = None
        self._work: Work | None = None
        self._eligible: tuple[tuple[float, int], float | None, list[int]] | None = None
        self._at_server = any(each.kind == "end" for each in settings.timetable)
        self._arrivals = arrivals(settings.manifest)
        self._numbers = {each.name: n for n, each in enumerate(settings.manifest.clients)}

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        return self.place == len(self.settings.timetable)

    @property
    def num_rounds(self) -> int:
        """Of the whole run."""
        return sum(each.kind == "train" for each in self.settings.timetable)

    @property
    def epsilon(self) -> float | None:
        """What was spent so far: of each client, or of each of its rows. None where nothing is
        counted."""
        if self.row_accounts is not None:
            return self.row_accounts.epsilon()
        if self.settings.private is not None and self.settings.private.privacy is not None:
            return self.accountant.epsilon()
        return None

    def work(self) -> Work | None:
        """What is to be done now: the same until `apply` has taken its results."""
        if self.done:
            return None
        if self._work is None:
            stop = self.settings.timetable[self.place]
            self._work = Work(self.place, stop, tuple(self._items(stop)))
        return self._work

    def state_of(self, version: int) -> GlobalState:
        """The global state after so many rounds, as long as somebody trains from it."""
        return self.state if version == self.version else self.past[version]

    def apply(self, work: Work, replies: Sequence[Reply], down: DownloadSizes) -> dict[str, float]:
        """Take the replies to the items of `work`, in the items' order; `down` is what its clients
        were sent. Returns what is worth recording of it."""
        assert work == self._work, "only what is to be done now can be applied"
        metrics: dict[str, float] = {}
        match work.stop.kind:
            case "begin" | "end":
                self._apply_boundary(work.stop, replies[0])
            case "preview" | "review":
                self._apply_summaries(work, replies, down)
            case "train":
                metrics = self._round(work, replies, down)
            case "evaluate":
                metrics = self._score(work, replies)
        self.place += 1
        self._work = self._plan = None
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on."""
        return {
            "format": FORMAT,
            "place": self.place,
            "clock": self.clock.state_dict(),
            "state": self.state.plain(),
            "version": self.version,
            "past": {str(version): each.plain() for version, each in self.past.items()},
            "given": {str(client): time for client, time in self.given.items()},
            "shared_model": self.shared_model and self.shared_model.plain(),
            "num_boundaries": self.num_boundaries,
            "summary": self.summary and dict(self.summary.sums),
            "own": {str(client): digest for client, digest in self.own.items()},
            "traffic": self.traffic.state_dict(),
            "accountant": self.accountant.state_dict(),
            "row_accounts": self.row_accounts and self.row_accounts.state_dict(),
            "scores": [
                {
                    "step": each.step,
                    **{key: dict(getattr(each, key)) for key in ("right", "asked", "alone")},
                }
                for each in self.scores
            ],
            "alone": dict(self._alone),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave. Raises InputError for another format."""
        check_format(state)
        self.place = state["place"]
        self.clock.load_state_dict(state["clock"])
        self.state = GlobalState.of(state["state"])
        self.version = state["version"]
        self.past = {int(version): GlobalState.of(each) for version, each in state["past"].items()}
        self.given = {int(client): time for client, time in state["given"].items()}
        self.shared_model = SharedModel.of(state["shared_model"]) if state["shared_model"] else None
        self.num_boundaries = state["num_boundaries"]
        self.summary = Summary(state["summary"]) if state["summary"] else None
        self.own = {int(client): digest for client, digest in state["own"].items()}
        self.traffic.load_state_dict(state["traffic"])
        self.accountant = Accountant.from_state(state["accountant"])
        if self.row_accounts is not None:
            self.row_accounts.load_state_dict(state["row_accounts"])
        self.scores = [Scores(**each) for each in state["scores"]]
        self._alone = dict(state["alone"])
        self._work = self._plan = None

    def _items(self, stop: Stop) -> list[Item]:
        settings = self.settings
        if stop.kind in BOUNDARIES:
            return [Item(None, stop.task, self.version, stop.time)]
        if stop.kind in ("preview", "review"):
            there = self._arrivals.get(floor(stop.time), {}).get(stop.task, [])
            there = [client for client in there if self._may_send_sums(client, stop)]
            return [Item(client, stop.task, self.version, stop.time) for client in (None, *there)]
        if stop.kind == "train":
            before = self.version
            there = [
                client for client in self._clients(stop) if self._covers_round(client, stop.time)
            ]
            self._plan = self.clock.plan(settings.participants, there, before, self._loads(stop))
            return [
                Item(
                    each.client,
                    stop.task,
                    each.version,
                    stop.time if each.version == before else self.given[each.place],
                )
                for each in sorted(self._plan.arrivals, key=lambda start: start.client)
            ]
        seen = range(1 + max((each.task for each in self._begun(stop)), default=0))
        if settings.personal:
            counts = settings.manifest.counts[:, :, 1:].sum(dim=2)
            return [
                Item(client, task, self.version, stop.time)
                for client in range(len(settings.manifest))
                for task in seen
                if counts[client, task] > 0
            ]
        return [Item(None, task, self.version, stop.time) for task in seen]

    def _begun(self, stop: Stop) -> list[Stop]:
        """The boundaries at which tasks have begun; where they begin at the clients, a task for
        each that somebody has had."""
        if self._at_server:
            past = self.settings.timetable[: self.place]
            return [each for each in past if each.kind == "begin"]
        tasks = [
            task for step, came in self._arrivals.items() if step <= stop.time for task in came
        ]
        return [Stop("begin", stop.time, task) for task in tasks]

    def _clients(self, stop: Stop) -> list[int]:
        """Who can train now: those present, where tasks begin at the server, if they have rows of
        the task under way."""
        manifest = self.settings.manifest
        key = (float(floor(stop.time)), stop.task)
        known = self._eligible
        if known is not None and known[0] == key and (known[1] is None or stop.time < known[1]):
            return known[2]
        there = manifest.present(stop.time)
        if self._at_server:
            there = [
                client
                for client in there
                if (event := manifest.latest(client, stop.time)) and event.task == stop.task
            ]
        self._eligible = (key, manifest.next_change(stop.time), there)
        return there

    def _task_at(self, client: int, stop: Stop, time: float) -> int:
        """The task that a client is at: that of a stop where all are at it, or its own."""
        if self._at_server or stop.kind != "train":
            return stop.task
        event = self.settings.manifest.latest(client, time)
        assert event is not None, "a client without rows is not asked"
        return event.task

    def _covers_round(self, client: int, time: float) -> bool:
        """Whether its rows' budget, if there is one, covers another round."""
        if self.row_accounts is None:
            return True
        event = self.settings.manifest.latest(client, time)
        accounts = self.row_accounts
        return event is None or accounts.covers(event, accounts.of_round(event))

    def _may_send_sums(self, client: int, stop: Stop) -> bool:
        """Whether its rows' budget, if there is one, covers that sums over them are sent."""
        accounts = self.row_accounts
        return accounts is None or all(
            accounts.covers(event, accounts.of_sums()) for event in self._summarised(client, stop)
        )

    def _summarised(self, client: int, stop: Stop) -> list[Event]:
        """What a client looks at before or after a task."""
        events = arrived(self.settings.manifest, client, floor(stop.time))
        return [each for each in events if each.task == stop.task]

    def _spend(self, work: Work) -> None:
        """Record what a round costs the rows that were trained on, late updates included."""
        if self.row_accounts is None:
            return
        assert self._plan is not None
        late = [each.client for each in self._plan.others if each.fate == "is late"]
        times = [(item.client, item.time) for item in work.items]
        for client, time in (*times, *((client, work.stop.time) for client in late)):
            assert client is not None
            event = self.settings.manifest.latest(client, time)
            assert event is not None, "a client without rows is not asked"
            self.row_accounts.spend(event, self.row_accounts.of_round(event))

    def _loads(self, stop: Stop) -> Callable[[int], Load]:
        """What each client has to do if it is given work now."""
        settings, tensors, ledger = self.settings, self.state.tensors, self.state.ledger
        down = sum(_size(each) for each in (*tensors.values(), *ledger.values()))
        sends = settings.aggregator.sends
        up = sum(_size(each) for name, each in tensors.items() if sends(self.version, name))

        def load(client: int) -> Load:
            event = settings.manifest.latest(client, stop.time)
            assert event is not None
            return Load(settings.local.num_steps(len(event.rows), settings.batch_size), down, up)

        return load

    def _apply_boundary(self, stop: Stop, reply: Reply) -> None:
        assert reply.boundary is not None
        self.shared_model, tensors = reply.boundary
        self.num_boundaries += 1
        self.summary = None
        key = self.settings.aggregator.key_of(stop.task)
        self.state = self.settings.aggregator.after_boundary(self.state, tensors, key)
        # What was given before the boundary is out of date.
        self._count(self.clock.withdraw())
        self.past, self.given = {}, {}

    def _apply_summaries(self, work: Work, replies: Sequence[Reply], down: DownloadSizes) -> None:
        """Add up the clients' summaries. The server's summary of a blank row says which sums are
        allowed.

        Raises InputError where privacy leaves nothing to sum up.
        """
        (_, *items), (blank, *said) = work.items, replies
        if self.row_accounts is not None:
            for item in items:
                assert item.client is not None
                for event in self._summarised(item.client, work.stop):
                    self.row_accounts.spend(event, self.row_accounts.of_sums())
        base, step = self.state.digest(), int(work.stop.time)
        expected = Expected(step, work.stop.kind, {}, base, blank.declared)
        accepted = self._admitted(work.stop, items, said, down, lambda *_: expected)
        if not any(update.num_rows for update in accepted):
            task = self.settings.manifest.tasks[work.stop.task]
            raise InputError(
                f"strategy: what it must know of task {task!r} nobody says: of {len(said)} "
                f"clients that were asked, {len(accepted)} answered, with sums over no row "
                "(federation.privacy.summaries.min_rows may be too large, or max_epsilon too small)"
            )
        self.summary = summed(accepted)

    def _round(self, work: Work, replies: Sequence[Reply], down: DownloadSizes) -> dict[str, float]:
        settings, plan = self.settings, self._plan
        assert plan is not None
        self._spend(work)
        self._note_accuracy_alone(work, replies)
        before, down_before = self.traffic.refused.total(), int(self.traffic.down.sum())
        accepted = self._admitted(work.stop, work.items, replies, down, cache(self._expected_of))
        age = {}
        updates = []
        for update in accepted:
            age[update.client] = self.version - update.round
            updates.append(self._rebased(update))
        self.traffic.staleness.update(age.values())
        after = self._combined(updates, work.stop)
        if settings.controls and updates:
            controls = shared_control(controls_of(self.state), updates, len(settings.manifest))
            named = {CONTROL + name: each for name, each in controls.items()}
            after = replace(after, memory={**after.memory, **named})
        if settings.optimiser is not None:
            after = settings.optimiser.apply(self.state, after)
        if after is not self.state:
            count(self.traffic.included, (self._numbers[name] for name in after.included))
        others = [each.client for each in plan.others]
        tasks = [self._task_at(client, work.stop, work.stop.time) for client in others]
        self.traffic.travelled(others, tasks, [0] * len(others), [down.state] * len(others))
        self._count([*plan.arrivals, *plan.others])
        self._remember(work.stop)
        self.state = after
        self.version += 1
        count(self.traffic.asked, (each.client for each in (*plan.arrivals, *plan.others)))
        refused = self.traffic.refused.total() - before
        epsilon = self.epsilon
        return {
            "clients": float(len(updates)),
            "refused": float(refused),
            "missing": float(len(plan.others)),
            "staleness": mean_over_clients(list(age.values())) or 0.0,
            "virtual_seconds": self.clock.time,
            "bytes_up": float(sum(reply.up for reply in replies)),
            "bytes_down": float(int(self.traffic.down.sum()) - down_before),
            **({} if epsilon is None else {"epsilon": epsilon}),
            **over_clients("loss", [u.metrics["loss"] for u in updates if "loss" in u.metrics]),
        }

    def _note_accuracy_alone(self, work: Work, replies: Sequence[Reply]) -> None:
        """Record the accuracy of clients before aggregation, if they were evaluated."""
        for part in EVALUATED:
            heard = [
                (
                    item.client,
                    self._task_at(item.client, work.stop, item.time),
                    float(flags.double().mean()),
                )
                for item, reply in zip(work.items, replies, strict=True)
                if item.client is not None
                and (flags := reply.flags.get(part)) is not None
                and len(flags) > 0
            ]
            if heard:
                before = self._alone.get(part, torch.empty(0, 3, dtype=torch.float64))
                self._alone[part] = torch.cat([before, torch.tensor(heard, dtype=torch.float64)])

    def _combined(self, updates: Sequence[ClientUpdate], stop: Stop) -> GlobalState:
        """The state after these updates; the same state where they come to nothing."""
        private, plan = self.settings.private, self._plan
        if private is None:
            return self.settings.aggregator.aggregate(self.state, updates)
        assert plan is not None
        names = self.settings.manifest.clients
        lost = [names[each.client].name for each in plan.others if each.fate == "is lost"]
        accountant = self.accountant
        try:
            after, summed = private.combine(self.state, updates, lost, self.version, accountant)
        except SumAbortedError:
            self.traffic.refused["sum aborted"] += len(updates)
            return self.state
        clients = [self._numbers[name] for name in summed.bytes_up]
        tasks = [self._task_at(client, stop, stop.time) for client in clients]
        back = [summed.bytes_down[name] for name in summed.bytes_up]
        self.traffic.travelled(clients, tasks, list(summed.bytes_up.values()), back)
        return after

    def _expected_of(self, version: int, rank: int | None, task_key: str | None) -> Expected:
        """What an update must be like that started from a version, of a client of a rank at a
        task."""
        state, settings = self.state_of(version), self.settings
        about = (settings.aggregator, state, state.digest(), version, rank, task_key)
        return expected_of(*about, controls=settings.controls)

    def _admitted(
        self,
        stop: Stop,
        items: Sequence[Item],
        replies: Sequence[Reply],
        down: DownloadSizes,
        expected_of: Callable[[int, int | None, str | None], Expected],
    ) -> tuple[ClientUpdate, ...]:
        """The updates that may be used; the others are counted by why they may not."""
        names = self.settings.manifest.clients
        ranks = self.settings.ranks
        expected: dict[str, Expected] = {}
        kept: dict[str, tuple[int, str | None]] = {}
        asked = [item.client for item in items if item.client is not None]
        assert len(asked) == len(items), "an update is a client's"
        tasks = [
            self._task_at(client, stop, item.time)
            for client, item in zip(asked, items, strict=True)
        ]
        self._count_bytes(asked, tasks, replies, down)
        for client, task, item, reply in zip(asked, tasks, items, replies, strict=True):
            rank = ranks[client % len(ranks)] if ranks else None
            key = self.settings.aggregator.key_of(task)
            expected[names[client].name] = expected_of(item.version, rank, key)
            kept[names[client].name] = client, reply.own
            if reply.damage is not None:
                self.traffic.refused[reply.damage] += 1
        admission = admit((each.update for each in replies if each.update), expected)
        self.traffic.refused.update(admission.tally())
        if stop.kind == "train":
            for update in admission.accepted:
                client, own = kept[update.client]
                if own is None:
                    self.own.pop(client, None)
                else:
                    self.own[client] = own
        return admission.accepted

    def _count_bytes(
        self,
        clients: Sequence[int],
        tasks: Sequence[int],
        replies: Sequence[Reply],
        down: DownloadSizes,
    ) -> None:
        """Bytes to clients, with the shared model if they do not have it, and from them."""
        shared_models = self.traffic.shared_models
        known = zip(clients, shared_models[list(clients)].tolist(), strict=True)
        behind = {client for client, shared_model in known if shared_model != self.num_boundaries}
        sent = [down.state] * len(clients)
        for client in behind:
            sent[clients.index(client)] += down.shared_model
        self.traffic.travelled(clients, tasks, [reply.up for reply in replies], sent)
        shared_models[list(behind)] = self.num_boundaries

    def _rebased(self, update: ClientUpdate) -> ClientUpdate:
        """A late update as if it had started from the state of now: what it changed, discounted by
        its age (FedBuff)."""
        if update.round == self.version:
            return update
        aggregator = self.settings.aggregator
        key = update.phase if aggregator.by_task else None
        then = aggregator.starting_tensors(self.state_of(update.round), task_key=key)
        now = aggregator.starting_tensors(self.state, task_key=key)
        return rebased(update, then, now, discount(self.version - update.round))

    def _remember(self, stop: Stop) -> None:
        """Keep the states that somebody still trains from, and what they were given when."""
        flying = self.clock.in_flight
        if not flying:
            self.past, self.given = {}, {}
            return
        states = {**self.past, self.version: self.state}
        self.past = {each.version: states[each.version] for each in flying}
        self.given = {each.place: self.given.get(each.place, stop.time) for each in flying}

    def _count(self, starts: Sequence[Any]) -> None:
        self.traffic.fates.update(each.fate for each in starts)

    def _score(self, work: Work, replies: Sequence[Reply]) -> dict[str, float]:
        settings = self.settings
        answers = [
            (item.client, item.task, reply.flags)
            for item, reply in zip(work.items, replies, strict=True)
        ]
        found = scores_of(
            work.stop.task,
            answers,
            settings.manifest,
            settings.ids,
            settings.personal,
            self._alone,
        )
        self.scores.append(found)
        self._alone = {}
        return found.metrics()


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
