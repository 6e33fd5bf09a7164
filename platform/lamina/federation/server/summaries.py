"""Summaries of clients add: what a strategy reviews of all rows together, from what each client
sent."""

from collections.abc import Iterable

from lamina.core import Summary
from lamina.federation.algebra.control_variates import CONTROL
from lamina.federation.algebra.rows import added
from lamina.federation.update import GRAM, ClientUpdate


def summed(updates: Iterable[ClientUpdate]) -> Summary | None:
    """The sum of the clients' summaries in the order of their names, in float64 and then in the
    type they came in; None where nobody sent any.

    A client that has met fewer classes has shorter dimensions: what is missing counts as zero. Gram
    matrices and control variates, which are the aggregation's own, are left out.
    """
    ordered = sorted(updates, key=lambda update: (update.client, update.round))
    of_clients = [
        {n: v for n, v in update.summaries.items() if not n.startswith((GRAM, CONTROL))}
        for update in ordered
    ]
    of_clients = [sums for sums in of_clients if sums]
    if not of_clients:
        return None
    first, *others = of_clients
    sums = {name: value.double() for name, value in first.items()}
    for each in others:
        assert each.keys() == sums.keys(), "admission lets no other names in"
        sums = {name: added(value, each[name].double()) for name, value in sums.items()}
    return Summary({name: value.to(first[name].dtype) for name, value in sums.items()})
