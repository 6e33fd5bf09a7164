"""The shared model: what all clients have in common besides the averaged tensors, as plain
values and tensors that can be sent and saved."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lamina.adapters.kinds.lora import LoRA
from lamina.adapters.model import AdaptedModel
from lamina.strategies.base import Strategy

LEDGER = "ledger"
"""The frozen adapter that holds what other code would fold into the backbone."""
_UNSCALED = LoRA(rank=1, alpha=1.0)
"""Lays B A over a module as it is, of whatever rank."""


@dataclass(frozen=True)
class SharedModel:
    """What is common to all clients besides what is averaged, between two task boundaries."""

    model: Mapping[str, Any]
    """`AdaptedModel.state_dict()`: what is frozen, and what is laid over the backbone. Where the
    global state has a tensor, this has an empty one."""
    strategy: Mapping[str, Any]
    """`Strategy.state`."""
    trained: tuple[str, ...]
    """The names in `AdaptedModel.parameters()`."""

    def plain(self) -> dict[str, Any]:
        """As a checkpoint packs it."""
        return {
            "model": dict(self.model),
            "strategy": dict(self.strategy),
            "trained": list(self.trained),
        }

    @staticmethod
    def of(plain: Mapping[str, Any]) -> "SharedModel":
        """Back from `plain`."""
        return SharedModel(plain["model"], plain["strategy"], tuple(plain["trained"]))


def shared_model_of(
    model: AdaptedModel, strategy: Strategy, shared: Mapping[str, Tensor]
) -> SharedModel:
    """What a model and its strategy hold besides the tensors that are `shared`."""
    if LEDGER in model.adapters:
        model.remove(LEDGER)
    state = model.state_dict()
    for name, saved in state["adapters"].items():
        for key in saved["tensors"]:
            if f"{name}.{key}" in shared:
                saved["tensors"][key] = torch.empty(0)
    return SharedModel(state, strategy.state, tuple(model.parameters()))


def lay_out(
    shared_model: SharedModel,
    tensors: Mapping[str, Tensor],
    ledger: Mapping[str, Tensor],
    model: AdaptedModel,
    strategy: Strategy,
) -> None:
    """Load a shared model into a new model and strategy, with the given tensors in place of its
    own. They hold copies: what was given is not changed by training them."""
    adapters = {}
    for name, saved in shared_model.model["adapters"].items():
        now = {
            key: tensors.get(f"{name}.{key}", value).clone()
            for key, value in saved["tensors"].items()
        }
        adapters[name] = {**saved, "tensors": now}
    model.load_state_dict({**shared_model.model, "adapters": adapters})
    trained = set(shared_model.trained)
    for name, tensor in every_tensor(model).items():
        tensor.requires_grad_(name in trained)
    strategy.state = _copied(shared_model.strategy, model.backbone.device)
    if ledger:
        residual = {name.partition(".")[2]: each for name, each in ledger.items()}
        model.keep(LEDGER, _UNSCALED, residual)


def restore_ledger(model: AdaptedModel) -> None:
    """After `AdaptedModel.load_state_dict`, which takes every adapter for one of the job's kind:
    the ledger, where there is one, has a kind of its own."""
    if LEDGER in model.adapters:
        model.adapters[LEDGER].kind = _UNSCALED


def every_tensor(model: AdaptedModel) -> dict[str, Tensor]:
    """As `AdaptedModel.parameters()`, and what is frozen."""
    return {
        f"{group}.{name}": tensor
        for group, adapter in model.adapters.items()
        for name, tensor in adapter.tensors.items()
    }


def _copied(state: Any, device: torch.device) -> Any:
    """The same state on a device, sharing no tensor."""
    if isinstance(state, Tensor):
        return state.to(device, copy=True)
    if isinstance(state, Mapping):
        return {key: _copied(each, device) for key, each in state.items()}
    if isinstance(state, list):
        return [_copied(each, device) for each in state]
    return state
