"""A trial whose loss, tensors or logits hold NaN or infinity ends with an error, so that it is
neither ranked nor exported."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lamina.registry import InputError


class NotFiniteError(InputError):
    """Numbers of a trial became NaN or infinite."""

    exit_code = 1


@contextmanager
def naming(task: str, learning_rate: float) -> Iterator[None]:
    """Add the task and the learning rate to an error that is raised inside."""
    try:
        yield
    except NotFiniteError as error:
        raise NotFiniteError(
            f"not finite: {task}: {error} (training.learning_rate {learning_rate:g})"
        ) from error


def check_losses(losses: Sequence[Tensor], first_step: int) -> None:
    """Raise NotFiniteError that names the first step whose loss, a scalar, is not finite. Reads
    from the device, so it is for a pass whose loss is known not to be finite."""
    bad = (~torch.stack(list(losses)).isfinite()).nonzero()
    if len(bad):
        at = int(bad[0])
        value = float(losses[at])
        raise NotFiniteError(f"the loss of step {first_step + at + 1} is {value}")
    raise NotFiniteError("the sum of the losses is too large for a float")


def check_tensors(state: Any, what: str) -> None:
    """Raise NotFiniteError that names the first tensor of a nested state which holds NaN or
    infinity. Reads once from each device."""
    by_device: dict[torch.device, list[tuple[str, Tensor]]] = {}
    for name, tensor in _tensors(state, ""):
        if tensor.is_floating_point() or tensor.is_complex():
            by_device.setdefault(tensor.device, []).append((name, tensor.detach()))
    for named in by_device.values():
        finite = torch.stack([each.isfinite().all() for _, each in named]).tolist()
        if not all(finite):
            raise NotFiniteError(f"{what} {named[finite.index(False)][0]} is not finite")


def _tensors(state: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of dicts and lists of them, by its path."""
    if isinstance(state, Tensor):
        yield path, state
    elif isinstance(state, Mapping):
        for key, each in state.items():
            yield from _tensors(each, f"{path}.{key}" if path else str(key))
    elif isinstance(state, list | tuple):
        for number, each in enumerate(state):
            yield from _tensors(each, f"{path}.{number}" if path else str(number))
