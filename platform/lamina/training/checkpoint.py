"""Checkpoints as bytes: nested tensors and plain values in one safetensors file, never pickle; and
those of a learner, in pieces."""

import json
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lamina.registry import InputError

_TENSOR = "__tensor__"
_STRUCTURE = "structure"


class Resumable(Protocol):
    """Work that can be stopped and resumed elsewhere: a learner."""

    def state_dict(self) -> dict[str, Any]:
        """All state that is needed to go on."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""


def checkpoint_of(learner: Resumable) -> dict[str, bytes]:
    """A learner's state in named pieces, which are kept one by one."""
    return {name: pack(piece) for name, piece in split(learner.state_dict()).items()}


def restore(learner: Resumable, pieces: Mapping[str, bytes]) -> None:
    """Bring a learner to the state that `checkpoint_of` saved of another one. Raises InputError for
    bytes that are no checkpoint."""
    state: dict[str, Any] = {}
    for content in pieces.values():
        state.update(unpack(content))
    learner.load_state_dict(state)


def split(state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The pieces of a checkpoint: each nested value of a learner's state, and the rest as one."""
    nested = {key: {key: value} for key, value in state.items() if isinstance(value, dict | list)}
    rest = {key: value for key, value in state.items() if key not in nested}
    return {**nested, **({"rest": rest} if rest else {})}


def pack(state: Any) -> bytes:
    """Dicts (with string keys), lists, tensors, numbers, strings, booleans and None, as safetensors
    bytes.

    A tensor is named by where it is (`model/adapters/main/...`). Raises TypeError for anything
    else.
    """
    tensors: dict[str, Tensor] = {}
    structure = json.dumps(_without_tensors(state, tensors, ""))
    blob = torch.frombuffer(bytearray(structure.encode()), dtype=torch.uint8)
    return save({**tensors, _STRUCTURE: blob})


def unpack(data: bytes) -> Any:
    """The packed values, on the CPU. Raises InputError for bytes that are no checkpoint."""
    try:
        tensors = load(data)
        structure = json.loads(bytes(tensors.pop(_STRUCTURE).numpy()))
        return _with_tensors(structure, tensors)
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"not a checkpoint: {error}") from error


def _without_tensors(value: Any, tensors: dict[str, Tensor], path: str) -> Any:
    if isinstance(value, Tensor):
        # Keys may hold slashes themselves.
        is_free = path not in tensors and path not in ("", _STRUCTURE)
        name = path if is_free else f"{path}#{len(tensors)}"
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {_TENSOR: name}
    if isinstance(value, dict):
        if not all(isinstance(key, str) and key != _TENSOR for key in value):
            raise TypeError(f"a checkpoint's keys are strings, not {list(value)}")
        return {
            key: _without_tensors(each, tensors, f"{path}/{key}" if path else key)
            for key, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [
            _without_tensors(each, tensors, f"{path}/{place}") for place, each in enumerate(value)
        ]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint holds tensors and plain values, not {type(value).__name__}")


def _with_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_TENSOR}:
            return tensors[value[_TENSOR]]
        return {key: _with_tensors(each, tensors) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_tensors(each, tensors) for each in value]
    return value
