"""The state that a client keeps between rounds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lamina.federation.shared_model import SharedModel
from lamina.federation.update import Tensors


@dataclass
class ClientState:
    """Kept at the client, never sent. A new client has the defaults."""

    tensors: Tensors = field(default_factory=dict)
    """The tensors that its aggregator leaves at the client (FedSA-LoRA's B), as last trained."""
    memory: Mapping[str, Any] | None = None
    """`Memory.state_dict()` of its replay memory; None while that is empty."""
    offered: int = 0
    """How many of its deliveries were offered to the memory."""
    control: Tensors = field(default_factory=dict)
    """Its control variates (SCAFFOLD)."""
    shared_model: SharedModel | None = None
    """Where clients are at tasks of their own: the shared model at the client's task."""
    task: int = -1
    """The number of that task in the client's own stream; -1 before its first."""
    delivery_time: float | None = None
    """The time of the delivery that the client was at; None before its first."""

    def plain(self) -> dict[str, Any]:
        """As plain values for a checkpoint, without what is at its default: {} for a new client."""
        found: dict[str, Any] = {
            "tensors": dict(self.tensors) or None,
            "memory": self.memory,
            "offered": self.offered or None,
            "control": dict(self.control) or None,
            "shared_model": self.shared_model and self.shared_model.plain(),
            "task": None if self.task < 0 else self.task,
            "delivery_time": self.delivery_time,
        }
        return {name: value for name, value in found.items() if value is not None}

    @staticmethod
    def of(plain: Mapping[str, Any]) -> "ClientState":
        """Back from `plain`."""
        shared_model = plain.get("shared_model")
        return ClientState(
            **{
                **plain,
                "shared_model": None if shared_model is None else SharedModel.of(shared_model),
            }
        )
