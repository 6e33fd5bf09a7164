"""Summaries of clients add: what a strategy reviews of all rows together, from what each client sent."""

from collections.abc import Iterable

from lamina.core import Summary
from lamina.federation.rows import added
from lamina.federation.update import ClientUpdate


def summed(updates: Iterable[ClientUpdate]) -> Summary | None:
    """The sum of the clients' summaries in the order of their names, in float64 and then in the type
    they came in; None where nobody sent any.

    A client that has met fewer classes has shorter dimensions: what is missing counts as zero.
    """
    ordered = sorted((u for u in updates if u.summaries), key=lambda u: (u.client, u.round))
    if not ordered:
        return None
    sums = {name: value.double() for name, value in ordered[0].summaries.items()}
    for update in ordered[1:]:
        assert update.summaries.keys() == sums.keys(), "the door lets no other names in"
        sums = {name: added(value, update.summaries[name].double()) for name, value in sums.items()}
    types = {name: value.dtype for name, value in ordered[0].summaries.items()}
    return Summary({name: value.to(types[name]) for name, value in sums.items()})
