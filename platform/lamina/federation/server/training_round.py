"""One training round: who is asked, and what their updates make of the global state."""

from collections.abc import Sequence

from lamina.evaluation.fairness import mean_over_clients
from lamina.federation.privacy.secure_sum import SumAbortedError
from lamina.federation.server.admission import admitted, client_of, expected_updates
from lamina.federation.server.aggregation import aggregated
from lamina.federation.server.run_settings import RunSettings
from lamina.federation.server.schedule import Schedule
from lamina.federation.server.scores import over_clients, with_accuracies_alone
from lamina.federation.server.server_state import ServerState
from lamina.federation.server.staleness import brought_up_to_date
from lamina.federation.server.traffic import count, load_of
from lamina.federation.state import GlobalState
from lamina.federation.timetable import Entry
from lamina.federation.update import ClientUpdate
from lamina.federation.work import DownloadSizes, Item, Reply


class TrainingRound:
    """A round between the choice of its clients and the next global state."""

    def __init__(
        self, settings: RunSettings, schedule: Schedule, server: ServerState, entry: Entry
    ) -> None:
        """Choose the clients, which lets virtual time pass. Those whose rows have no privacy budget
        left are not asked."""
        self._settings = settings
        self._schedule = schedule
        self._server = server
        self._entry = entry
        clients = [
            client
            for client in schedule.trainable(entry)
            if server.budgets.covers_round(schedule.delivery(client, entry.time))
        ]
        loads = load_of(settings, server.global_state, server.version, entry.time)
        self._plan = server.clock.plan(settings.participants, clients, server.version, loads)

    def items(self) -> tuple[Item, ...]:
        """The work of the clients whose update will arrive, in the order of their numbers."""
        server, entry = self._server, self._entry
        return tuple(
            Item(
                each.client,
                entry.task,
                each.version,
                entry.time if each.version == server.version else server.history.time_of(each),
            )
            for each in sorted(self._plan.arrivals, key=lambda start: start.client)
        )

    def apply(
        self, items: Sequence[Item], replies: Sequence[Reply], sizes: DownloadSizes
    ) -> dict[str, float]:
        """Admit the updates, bring late ones up to date, combine them, and count. Returns what is
        worth recording."""
        server, schedule, entry = self._server, self._schedule, self._entry
        traffic = server.traffic
        refused, down = traffic.refused.total(), int(traffic.down.sum())
        self._spend(items)
        clients = [client_of(item) for item in items]
        tasks = [
            schedule.task_at(client, entry, item.time)
            for client, item in zip(clients, items, strict=True)
        ]
        up, answers = [reply.up for reply in replies], [reply.flags for reply in replies]
        server.alone = with_accuracies_alone(server.alone, clients, tasks, answers)
        traffic.count_exchange(clients, tasks, up, sizes, server.num_boundaries)
        expected = expected_updates(self._settings, server.state_of, items, tasks)
        names = self._settings.names_of(clients)
        accepted = admitted(names, expected, replies, traffic)
        self._keep_client_states(clients, replies, accepted)
        after = self._aggregated(accepted)
        ages = [server.version - update.round for update in accepted]
        others = [each.client for each in self._plan.others]
        others_at = [schedule.task_at(client, entry, entry.time) for client in others]
        traffic.count_round(self._plan, others_at, ages, sizes)
        server.history.keep(server.clock.in_flight, server.version, server.global_state, entry.time)
        server.global_state = after
        server.version += 1
        epsilon = server.budgets.epsilon
        losses = [each.metrics["loss"] for each in accepted if "loss" in each.metrics]
        return {
            "clients": float(len(accepted)),
            "refused": float(traffic.refused.total() - refused),
            "missing": float(len(others)),
            "staleness": mean_over_clients(ages) or 0.0,
            "virtual_seconds": server.clock.time,
            "bytes_up": float(sum(up)),
            "bytes_down": float(int(traffic.down.sum()) - down),
            **({} if epsilon is None else {"epsilon": epsilon}),
            **over_clients("loss", losses),
        }

    def _spend(self, items: Sequence[Item]) -> None:
        """Record what the round costs the rows that were trained on. An update that came too late
        was seen all the same."""
        trained = [(client_of(item), item.time) for item in items]
        late = [each.client for each in self._plan.others if each.fate == "is late"]
        trained += [(client, self._entry.time) for client in late]
        self._server.budgets.spend_round([self._schedule.delivery(*each) for each in trained])

    def _keep_client_states(
        self, clients: Sequence[int], replies: Sequence[Reply], accepted: Sequence[ClientUpdate]
    ) -> None:
        """Take over the new states of the clients whose updates were accepted."""
        names, states = {update.client for update in accepted}, self._server.client_states
        for client, reply in zip(clients, replies, strict=True):
            if self._settings.manifest.clients[client].name not in names:
                continue
            if reply.client_state is None:
                states.pop(client, None)
            else:
                states[client] = reply.client_state

    def _aggregated(self, accepted: Sequence[ClientUpdate]) -> GlobalState:
        """The state after these updates; the same object where nothing comes of them."""
        settings, server, entry = self._settings, self._server, self._entry
        traffic, before = server.traffic, server.global_state
        updates = [
            brought_up_to_date(
                each,
                settings.aggregator,
                server.state_of(each.round),
                before,
                server.version - each.round,
            )
            for each in accepted
        ]
        lost = [each.client for each in self._plan.others if each.fate == "is lost"]
        accountant = server.budgets.of_clients
        try:
            after, summed = aggregated(
                settings, before, updates, server.version, settings.names_of(lost), accountant
            )
        except SumAbortedError:
            traffic.refused["sum aborted"] += len(updates)
            return before
        if summed is not None:
            clients = settings.numbers_of(summed.bytes_up)
            tasks = [self._schedule.task_at(client, entry, entry.time) for client in clients]
            down = [summed.bytes_down[name] for name in summed.bytes_up]
            traffic.count_bytes(clients, tasks, list(summed.bytes_up.values()), down)
        if after is not before:
            count(traffic.included, settings.numbers_of(after.included))
        return after
