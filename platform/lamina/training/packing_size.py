"""How many trials are worth packing: found out by trying, since it depends on the device, the model
and the length of the texts."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch

from lamina.adapters.base import AdapterKind
from lamina.adapters.model import MAIN, AdaptedModel
from lamina.backbones.backbone import Backbone, Call
from lamina.core import Batch

MOST_PACKED = 32
"""Trials at a time, whatever is found."""
WORTH = 1.05
"""Twice as many trials are packed if each gets faster by so much."""
SAFE_SHARE = 0.4
"""Of the free memory: twice as many trials take twice as much again."""


@dataclass(frozen=True)
class Packing:
    """What trying has shown."""

    size: int
    """Trials at a time that are trained fastest."""
    alone: float
    """Seconds of a trial's forward and backward by itself."""
    packed: float
    """The same as its share in a pack of that size."""


def packing_size(backbone: Backbone, kind: AdapterKind, batch: Batch, most: int) -> Packing:
    """How many trials with adapters of a kind are trained fastest at a time, of 1, 2, 4 ... `most`,
    on batches like this one.

    Each size is tried with a forward and a backward of adapters made for it. Larger ones are not
    tried once one does not pay, or could take more memory than is free.
    """
    data = batch.trimmed().to(backbone.device)
    alone = _seconds(_step(backbone, kind, data, 1), backbone)
    best, before = 1, alone
    while kind.packs and best * 2 <= most:
        taken = _memory(backbone)
        per_trial = float("inf")
        with suppress(torch.OutOfMemoryError):
            per_trial = _seconds(_step(backbone, kind, data, best * 2), backbone) / (best * 2)
        if per_trial * WORTH > before:
            break
        best, before = best * 2, per_trial
        if _memory(backbone) - taken > SAFE_SHARE * _free(backbone):
            break
    return Packing(best, alone, before)


def _step(backbone: Backbone, kind: AdapterKind, data: Batch, number: int) -> Callable[[], None]:
    models = [AdaptedModel(backbone, kind, seed) for seed in range(number)]
    for model in models:
        model.add()
    tensors = [tensor for each in models for tensor in each.adapters[MAIN].tensors.values()]

    def step() -> None:
        with torch.enable_grad():
            calls = [Call(data.inputs, model.overlay()) for model in models]
            losses = [hidden.features.square().sum() for hidden in backbone.run_together(calls)]
            torch.autograd.grad(losses, tensors, allow_unused=True)

    return step


def _seconds(step: Callable[[], None], backbone: Backbone) -> float:
    """The shorter of two runs, after one that is not counted."""
    found = []
    for _ in range(3):
        start = time.perf_counter()
        step()
        if backbone.device.type == "cuda":
            torch.cuda.synchronize(backbone.device)
        found.append(time.perf_counter() - start)
    return min(found[1:])


def _memory(backbone: Backbone) -> int:
    if backbone.device.type == "cuda":
        return torch.cuda.max_memory_allocated(backbone.device)
    from psutil import Process

    return int(Process().memory_info().rss)


def _free(backbone: Backbone) -> int:
    if backbone.device.type == "cuda":
        return torch.cuda.mem_get_info(backbone.device)[0]
    from psutil import virtual_memory

    return int(virtual_memory().available)
