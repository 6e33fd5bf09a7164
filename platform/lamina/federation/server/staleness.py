"""Updates that started from an older global state, where rounds do not wait (FedBuff, Nguyen et
al., 2022)."""

from dataclasses import replace

from torch import Tensor

from lamina.federation.algebra.rows import common, extended
from lamina.federation.update import ClientUpdate, Tensors


def discount(staleness: int) -> float:
    """s(tau) = 1 / sqrt(1 + tau), tau the aggregations since the client started."""
    return float((1 + staleness) ** -0.5)


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
