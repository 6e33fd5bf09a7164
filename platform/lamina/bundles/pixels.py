"""Pixels of exemplars in a quarter of their bytes, to the last bit.

What an image processor makes of 8-bit pictures is float32, yet a channel has at most 256 different
values: one for each that a byte had. So the values are kept once, and each pixel is its number
among them.
"""

from typing import Any

import torch
from torch import Tensor

_VALUES = 256
"""The number of values of a byte."""


def packed(pixels: Tensor) -> Tensor | dict[str, Any]:
    """float32 [N, channels, ...] as `codes`, uint8 of the same shape, and `values` of each channel,
    ascending. As they are where a channel has too many values (pictures that were enlarged with
    fractions), or they are no float32 pixels."""
    if pixels.dtype != torch.float32 or pixels.dim() < 3 or not len(pixels):
        return pixels
    codes = torch.empty(pixels.shape, dtype=torch.uint8)
    values = []
    for place in range(pixels.shape[1]):
        own = _values(pixels[:, place])
        if own is None:
            return pixels
        values.append(own)
        for code, row in zip(codes[:, place], pixels[:, place], strict=True):
            code.copy_(torch.searchsorted(own, row.contiguous()))
    found = {"codes": codes, "values": values}
    # 0.0 and -0.0 are equal, and other bits.
    is_exact = torch.equal(unpacked(found).view(torch.int32), pixels.view(torch.int32))
    return found if is_exact else pixels


def unpacked(kept: Tensor | dict[str, Any]) -> Tensor:
    """The pixels that were packed."""
    if isinstance(kept, Tensor):
        return kept
    columns = [own[codes.int()] for own, codes in zip(kept["values"], _channels(kept), strict=True)]
    return torch.stack(columns, dim=1)


def _channels(kept: dict[str, Any]) -> tuple[Tensor, ...]:
    codes: Tensor = kept["codes"]
    return codes.unbind(1)


def _values(channel: Tensor) -> Tensor | None:
    """The different values of a channel [N, ...], ascending; None of more than a byte has."""
    known = channel.new_empty(0)
    for row in channel:
        flat = row.flatten()
        if len(known):
            place = torch.searchsorted(known, flat).clamp_max(len(known) - 1)
            flat = flat[known[place] != flat]
        known = torch.cat([known, flat]).unique()
        if len(known) > _VALUES:
            return None
    return known
