"""Named bytes on their way to the store and back: those that are large go through Ray's object
store, where whoever receives them finds them without a copy.

In the arguments of a call they would be copied by the one thread that answers all calls: a
checkpoint of 200 MB held up every host and trial for a second.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import ray

LARGE = 1_000_000
"""Bytes of this size and larger ones are put in the object store."""

Parcel: TypeAlias = bytes | list[Any]
"""Bytes, or a list of one reference to them: Ray would fetch a bare one before the call."""


def packed(contents: Mapping[str, bytes]) -> dict[str, Parcel]:
    """Bytes as parcels, to be sent."""
    return {name: _packed(each) for name, each in contents.items()}


def unpacked(parcels: Mapping[str, Parcel]) -> dict[str, bytes]:
    """What was sent, not to be changed. Those from the object store are there as long as the result
    is. Raises Ray's error where whoever sent them has died."""
    return {name: _unpacked(each) for name, each in parcels.items()}


def _unpacked(parcel: Parcel) -> Any:
    if isinstance(parcel, bytes):
        return parcel
    content: Any = ray.get(parcel[0])
    return memoryview(content)


def _packed(content: bytes) -> Parcel:
    if len(content) < LARGE:
        return content
    return [ray.put(np.frombuffer(content, dtype=np.uint8))]
