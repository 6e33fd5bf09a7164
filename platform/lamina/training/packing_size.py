"""How many trials are worth packing. It is measured, because it depends on the device, the model
and the length of the texts."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from statistics import median, quantiles

import torch

from lamina.adapters.base import AdapterKind
from lamina.adapters.model import MAIN, AdaptedModel
from lamina.backbones.backbone import Backbone
from lamina.backbones.calls import Call
from lamina.core import Batch
from lamina.training.measured import clock_of, measured

MOST_PACKED = 32
"""The largest pack, whatever is measured."""
WORTH = 1.1
"""Twice as many trials are packed if each gets faster by so much, in three of four comparisons at
least: where the gain is within the noise, the smaller pack is taken."""
PAIRS = 9
"""Comparisons of two sizes, at least. The two take turns, so that a machine that gets slower or
faster meanwhile does so for both."""
CLEAR_PAIRS = 5
"""This many comparisons are enough where all of them say that the larger pack does not pay."""
SLOW_PAIRS = 3
"""The same where these took as long as `SLOW` says: noise is small beside such steps."""
SLOW = 1.5
"""Seconds of so many comparisons."""
LONG_ENOUGH = 0.5
"""Seconds that the comparisons of two sizes take, at least."""
MOST_PAIRS = 60
"""The largest number of comparisons, however short they are."""
SAFE_SHARE = 0.4
"""The share of the free memory that a pack may take, because twice as many trials take twice as
much again."""


@dataclass(frozen=True)
class Packing:
    """The measured sizes and times."""

    size: int
    """Trials at a time that are trained fastest."""
    alone: float
    """Seconds of a trial's forward and backward by itself: the median."""
    packed: float
    """Its share of the seconds in a pack of that size."""


def kept_packing_size(backbone: Backbone, kind: AdapterKind, batch: Batch, most: int) -> Packing:
    """`packing_size`, tried once for a machine, backbone, kind and shape of batch, and kept."""
    data = batch.trimmed()
    key = {
        "packing": most,
        "backbone": [backbone.digest, backbone.pooling, backbone.features is not None],
        "kind": [kind.name, repr(kind)],
        "shapes": {name: list(each.shape) for name, each in sorted(data.inputs.items())},
    }
    found = measured(key, lambda: asdict(packing_size(backbone, kind, data, most)), backbone.device)
    return Packing(**found)


def packing_size(backbone: Backbone, kind: AdapterKind, batch: Batch, most: int) -> Packing:
    """How many trials with adapters of a kind are trained fastest at a time, of 1, 2, 4 ... `most`,
    on batches like this one.

    Each size is tried with a forward and a backward of adapters made for it, in turns with half
    that size. Larger ones are not tried once one does not pay, or could take more memory than is
    free.
    """
    data = batch.trimmed().to(backbone.device)
    step = _step(backbone, kind, data, 1)
    size, alone = 1, 0.0
    gain = 1.0
    while kind.packs and size * 2 <= most:
        taken = _memory(backbone)
        with suppress(torch.OutOfMemoryError):
            larger = _step(backbone, kind, data, size * 2)
            pairs = _in_turns(step, larger, backbone)
            alone = alone or median(each for each, _ in pairs)
            gains = _gains(pairs)
            if quantiles(gains, n=4)[0] < WORTH:
                break
            size, step, gain = size * 2, larger, gain * median(gains)
            if _memory(backbone) - taken > SAFE_SHARE * _free(backbone):
                break
            continue
        break
    alone = alone or median(each for each, _ in _in_turns(step, None, backbone))
    return Packing(size, alone, alone / gain)


def _in_turns(
    first: Callable[[], None], second: Callable[[], None] | None, backbone: Backbone
) -> list[tuple[float, float]]:
    """Seconds of both, again and again in turns, after a run of each that is not counted."""
    found: list[tuple[float, float]] = []
    total = 0.0
    for at in range(MOST_PAIRS + 1):
        pair = _seconds(first, backbone), _seconds(second, backbone) if second else 0.0
        if at == 0:
            continue
        found.append(pair)
        total += sum(pair)
        is_clear = second is not None and max(_gains(found)) < WORTH
        if is_clear and at >= SLOW_PAIRS and total >= SLOW:
            break
        if at >= (CLEAR_PAIRS if is_clear else PAIRS) and total >= LONG_ENOUGH:
            break
    return found


def _gains(pairs: Sequence[tuple[float, float]]) -> list[float]:
    """How much faster each trial gets in the larger pack: two batches of the smaller size hold as
    many trials."""
    return [2 * smaller / larger if larger else 1.0 for smaller, larger in pairs]


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
    """Seconds of one step."""
    clock = clock_of(backbone.device)
    _wait_for(backbone)
    start = clock()
    step()
    _wait_for(backbone)
    return clock() - start


def _wait_for(backbone: Backbone) -> None:
    if backbone.device.type == "cuda":
        torch.cuda.synchronize(backbone.device)


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
