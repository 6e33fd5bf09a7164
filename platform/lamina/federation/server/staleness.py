"""Updates that started from an older global state, where rounds do not wait (FedBuff, Nguyen et
al., 2022)."""

from dataclasses import replace

from torch import Tensor

from lamina.federation.aggregators.base import Aggregator
from lamina.federation.algebra.rows import common, extended
from lamina.federation.state import GlobalState
from lamina.federation.update import ClientUpdate, Tensors


def discount(staleness: int) -> float:
    """s(tau) = 1 / sqrt(1 + tau), tau the aggregations since the client started."""
    return float((1 + staleness) ** -0.5)


def brought_up_to_date(
    update: ClientUpdate,
    aggregator: Aggregator,
    before: GlobalState,
    now: GlobalState,
    staleness: int,
) -> ClientUpdate:
    """An update that started from the state `before`, as if it had started from `now`: what it
    changed, discounted by its staleness."""
    if staleness == 0:
        return update
    key = update.phase if aggregator.by_task else None
    start = aggregator.starting_tensors(before, task_key=key)
    target = aggregator.starting_tensors(now, task_key=key)
    return rebased(update, start, target, discount(staleness))


def rebased(update: ClientUpdate, start: Tensors, now: Tensors, factor: float) -> ClientUpdate:
    """The update as if the client had started from `now`: x_t + factor (x_i - x_start), so that the
    mean of such is x_t + mean(factor D_i), whatever linear aggregator takes it.

    Tensors and rows of a head that were not there at its start are as the client sent them.
    """
    tensors = {
        name: _moved(x, start[name], now[name], factor) if name in start and name in now else x
        for name, x in update.tensors.items()
    }
    return replace(update, tensors=tensors)


def _moved(x: Tensor, start: Tensor, now: Tensor, factor: float) -> Tensor:
    found, origin, target = (each.double() for each in common(x, start, now))
    return extended((target + factor * (found - origin)).to(x.dtype), x)
