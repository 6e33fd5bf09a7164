"""An update as the bytes that travel: safetensors, with the plain values in its header."""

import json
from typing import Any

import safetensors
import safetensors.torch
import torch

from lamina.federation.update import ClientUpdate, Tensors
from lamina.registry import InputError

_PLAIN = ("client", "round", "num_rows", "phase", "base")


def update_to_bytes(update: ClientUpdate) -> bytes:
    """The update as safetensors; the length of it is what the client sends up."""
    groups = {"tensors": update.tensors, "summaries": update.summaries}
    plain = {key: getattr(update, key) for key in _PLAIN} | {"metrics": dict(update.metrics)}
    return safetensors.torch.save(
        {
            f"{group}/{name}": _own(value)
            for group, tensors in groups.items()
            for name, value in tensors.items()
        },
        {"update": json.dumps(plain, sort_keys=True)},
    )


def update_from_bytes(data: bytes) -> ClientUpdate:
    """What `update_to_bytes` wrote; `checking.problem_of` says whether it may be used.

    Raises InputError for bytes that are no such update.
    """
    groups: dict[str, dict[str, torch.Tensor]] = {"tensors": {}, "summaries": {}}
    try:
        # safetensors returns tensors in an order of its own, which is another each time.
        for full_name, value in sorted(safetensors.torch.load(data).items()):
            group, _, name = full_name.partition("/")
            groups[group][name] = value
        plain = _plain_values(data)
        plain["metrics"] = dict(plain["metrics"])
        if plain.keys() != {*_PLAIN, "metrics"}:
            raise KeyError(*plain)
        return ClientUpdate(**plain, tensors=groups["tensors"], summaries=groups["summaries"])
    except (
        safetensors.SafetensorError,
        KeyError,
        TypeError,
        ValueError,
        RecursionError,
    ) as error:
        raise InputError(f"update: {len(data)} bytes that are no update ({error})") from error


def tensors_to_bytes(tensors: Tensors) -> bytes:
    """Named tensors as safetensors: a global state, whose length is what goes down."""
    return safetensors.torch.save({name: _own(value) for name, value in tensors.items()})


def _own(value: torch.Tensor) -> torch.Tensor:
    """The tensor on the CPU in memory of its own: safetensors refuses views of each other."""
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def _plain_values(data: bytes) -> dict[str, Any]:
    """The header is a length in eight bytes and JSON, of which `__metadata__` holds our values."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    plain: dict[str, Any] = json.loads(header["__metadata__"]["update"])
    return plain
