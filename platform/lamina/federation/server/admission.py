"""Which replies of clients a round may use. What an update may hold at all is said in
`lamina.federation.checking`; here it is worked out for each item of a round, and counted."""

from collections.abc import Callable, Sequence
from functools import cache

from lamina.federation.checking import Expected, admit, expected_of
from lamina.federation.server.run_settings import RunSettings
from lamina.federation.server.traffic import Traffic
from lamina.federation.state import GlobalState
from lamina.federation.update import ClientUpdate
from lamina.federation.work import Item, Reply


def expected_updates(
    settings: RunSettings,
    state_of: Callable[[int], GlobalState],
    items: Sequence[Item],
    tasks: Sequence[int],
) -> list[Expected]:
    """What the update of each item of a round must be like. `state_of` gives the state of a
    version, and `tasks` are the tasks that the items' clients are at.

    Clients of one rank that start from one version at one task send alike: that is worked out once.
    """
    aggregator = settings.aggregator

    @cache
    def expected(version: int, rank: int | None, key: str | None) -> Expected:
        state = state_of(version)
        about = (aggregator, state, state.digest(), version, rank, key)
        return expected_of(*about, controls=settings.controls)

    return [
        expected(item.version, settings.rank_of(client_of(item)), aggregator.key_of(task))
        for item, task in zip(items, tasks, strict=True)
    ]


def admitted(
    clients: Sequence[str], expected: Sequence[Expected], replies: Sequence[Reply], traffic: Traffic
) -> tuple[ClientUpdate, ...]:
    """The updates that may be used, in the order of their clients' names. Those that may not are
    counted in `traffic`, by reason. `clients` are the names of those asked."""
    traffic.refused.update(each.damage for each in replies if each.damage is not None)
    updates = (each.update for each in replies if each.update)
    admission = admit(updates, dict(zip(clients, expected, strict=True)))
    traffic.refused.update(admission.tally())
    return admission.accepted


def client_of(item: Item) -> int:
    """The client of an item that is a client's."""
    assert item.client is not None, "an update is a client's"
    return item.client
