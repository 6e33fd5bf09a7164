"""SCAFFOLD's control variates, which keep a client from drifting away from the others. Pure
functions of named tensors."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from lamina.federation.algebra.rows import added, extended
from lamina.federation.update import ClientUpdate, Tensors

CONTROL = "control:"
"""Before a tensor's name: the change of a client's control variate, among its summaries."""


def corrected(gradients: Tensors, own: Tensors, shared: Tensors) -> dict[str, Tensor]:
    """g - c_i + c (SCAFFOLD, Karimireddy et al., 2020, algorithm 1); a control variate that is not
    there yet is zero, and so is a row of it."""
    return {name: g - _like(own, name, g) + _like(shared, name, g) for name, g in gradients.items()}


def own_control(
    own: Tensors,
    shared: Tensors,
    start: Tensors,
    end: Tensors,
    num_steps: int,
    learning_rate: float,
) -> dict[str, Tensor]:
    """c_i+ = c_i - c + (x - y_i) / (K eta), option II of the paper: the client's state for its next
    round. True of K steps of plain SGD at one learning rate, and of no other optimiser."""
    scale = 1.0 / (num_steps * learning_rate)
    return {
        name: _like(own, name, y)
        - _like(shared, name, y)
        + scale * (extended(start.get(name, y), y) - y)
        for name, y in end.items()
    }


def control_change(before: Tensors, after: Tensors) -> dict[str, Tensor]:
    """c_i+ - c_i under the names that summaries carry it by: the changes of clients add."""
    return {CONTROL + name: c - _like(before, name, c) for name, c in after.items()}


def shared_control(
    shared: Tensors, updates: Iterable[ClientUpdate], num_clients: int
) -> dict[str, Tensor]:
    """c + |S|/N mean(c_i+ - c_i) = c + sum / N, of N clients in all, in the order of the clients'
    names and in float64."""
    shared = {name: c.double() for name, c in shared.items()}
    for update in sorted(updates, key=lambda update: (update.client, update.round)):
        for key, change in update.summaries.items():
            if key.startswith(CONTROL):
                name, step = key.removeprefix(CONTROL), change.double() / num_clients
                shared[name] = added(shared[name], step) if name in shared else step
    return {name: c.float() for name, c in shared.items()}


def _like(controls: Mapping[str, Tensor], name: str, tensor: Tensor) -> Tensor:
    """The control variate of a tensor, with zeros for rows that it does not have."""
    if name not in controls:
        return torch.zeros_like(tensor)
    return added(controls[name].to(tensor.dtype), torch.zeros_like(tensor))
